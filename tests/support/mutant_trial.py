"""Runs the tests that reach a mutant: do they notice it?

    python tests/support/mutant_map.py MAP
    python tests/support/mutant_trial.py --seed 0 --n 200 --map MAP --log LOG

A mutant dies if a default test that runs its line fails. The run goes on where LOG ends.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutants import ROOT, Mutant, equivalents, sample

LONGEST = 300  # seconds that the tests of a file may take
ONE_TEST, LONGER = 15, 10  # seconds of processor time that one test may take, or so many times its usual time
PRELOADED = ["torch", "torchvision", "scipy.stats", "sklearn.datasets", "pyarrow.parquet", "typer", "yaml", "pytest"]


def tests_of(file: str) -> list[str]:
    """The tests that mirror a file; without such, those of its folder."""
    place = Path("tests") / Path(file).relative_to("robustctl")
    found = sorted(
        [*(ROOT / place.parent).glob(f"test_{place.stem}.py"), *(ROOT / place.parent).glob(f"test_{place.stem}__*.py")]
    )
    return [str(one.relative_to(ROOT)) for one in found] or [str(place.parent)]


def wider_tests_of(file: str) -> list[str]:
    """The other tests that import the file: they are asked if the tests that mirror it notice nothing."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    room, _, name = module.rpartition(".")
    imports = re.compile(rf"from {module} import|import {module}\b|from {room} import [^\n]*\b{name}\b")
    mirror = [ROOT / one for one in tests_of(file)]
    found = [one for one in sorted((ROOT / "tests").rglob("test_*.py")) if imports.search(one.read_text("utf-8"))]
    return [str(one.relative_to(ROOT)) for one in found if not any(one.is_relative_to(seen) for seen in mirror)]


@dataclass(frozen=True)
class Reach:
    """The map of ``mutant_map.py``: the default tests that pass, their seconds, and which of them run which lines."""

    tests: list[str]
    seconds: list[float]
    lines: dict[str, dict[str, list[int]]]

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run a line of the mutant."""
        found = {test for line in mutant.lines for test in self.lines[mutant.file].get(str(line), [])}
        return [self.tests[one] for one in sorted(found)]


class Trial:
    """Runs tests on a copy of the project, see ``copied``: the quickest first, and none after the first that fails.

    Every run is a fork of a process that has imported torch, so that a mutant costs little more than its tests.
    """

    def __init__(self, folder: Path, reach: Reach) -> None:
        self.folder, self.reach = folder, reach
        self.seconds = dict(zip(reach.tests, reach.seconds, strict=True))
        self.sound: dict[str, bool] = {}  # whether a test passes without a change, if that was asked
        self.clock = int(time.time())
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def fate(self, mutant: Mutant) -> tuple[str, str]:
        """``died``, ``no end``, ``survived`` or ``too slow``, and the test that noticed it.

        A mutant died if a test fails that passes without it. ``no end``: such a test was still at work after
        ``ONE_TEST`` seconds of processor time. ``too slow``: nothing failed in ``LONGEST`` seconds.
        """
        end, test = "survived", ""
        for tests in self._asked(mutant):
            while end == "survived" and (sound := [one for one in tests if self.sound.get(one, True)]):
                end, test = self._with_change(mutant, sound)
                if end not in ("died", "no end") or self._is_sound(test):
                    break
                end = "survived"
        return end, test

    def _asked(self, mutant: Mutant) -> list[list[str]]:
        """The tests that reach the mutant, first those that mirror its file. If it runs on import: every test that
        mirrors the file or imports it."""
        mirror, wider = tuple(tests_of(mutant.file)), tuple(wider_tests_of(mutant.file))
        reaching = self.reach.of(mutant) or [one for one in self.reach.tests if one.startswith(mirror + wider)]
        near = [one for one in reaching if one.startswith(mirror)]
        far = [one for one in reaching if one not in near]
        return [near, far]

    def _with_change(self, mutant: Mutant, tests: list[str]) -> tuple[str, str]:
        target = self.folder / mutant.file
        source = target.read_bytes()
        self._write(target, source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
        try:
            return self._run(tests)
        finally:
            self._write(target, source)

    def _write(self, target: Path, source: bytes) -> None:
        """Every text gets a second of its own: Python takes a compiled file for that of a source of the same time."""
        target.write_bytes(source)
        self.clock += 1
        os.utime(target, (self.clock, self.clock))

    def _is_sound(self, test: str) -> bool:
        if test not in self.sound:
            self.sound[test] = self._run([test])[0] == "survived"
        return self.sound[test]

    def _run(self, tests: list[str]) -> tuple[str, str]:
        record = self.folder.parent / "record.json"
        record.write_text("{}", encoding="utf-8")
        process = self.context.Process(target=_run_tests, args=(str(self.folder), tests, self.seconds, str(record)))
        process.start()
        process.join(LONGEST)
        ended = process.exitcode is not None
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and whatever the tests have started
        process.join()
        seen = json.loads(record.read_text(encoding="utf-8"))
        if not ended:
            return "too slow", seen.get("now", "")
        if process.exitcode == 0:
            return "survived", ""
        return ("no end" if process.exitcode == -signal.SIGPROF else "died"), seen.get("now", tests[0])


class _Watch:
    """A plugin of pytest: of the tests that are asked it puts the quickest first, writes down what runs, and bounds
    each test's time."""

    def __init__(self, asked: list[str], seconds: dict[str, float], record: str) -> None:
        self.asked, self.seconds, self.record = set(asked), seconds, Path(record)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        asked = [one for one in items if one.nodeid in self.asked]
        items[:] = sorted(asked, key=lambda one: self.seconds[one.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        allowed = max(ONE_TEST, LONGER * self.seconds[nodeid])
        signal.setitimer(signal.ITIMER_PROF, allowed)  # SIGPROF ends the process
        self.record.write_text(json.dumps({"now": nodeid}), encoding="utf-8")


def _run_tests(folder: str, tests: list[str], seconds: dict[str, float], record: str) -> None:
    os.setsid()
    os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    os.chdir(folder)
    sys.path.insert(0, folder)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    files = dict.fromkeys(one.split("::")[0] for one in tests)
    watch = _Watch(tests, seconds, record)
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files], plugins=[watch])
    os._exit(int(code))


def copied(folder: Path) -> Path:
    """A copy of the project in ``folder``, beside a link to the reference models."""
    inside = folder / "project"
    kept = [name for name in ("robustctl", "tests", "docs") if (ROOT / name).is_dir()]
    for name in kept:
        shutil.copytree(ROOT / name, inside / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, inside)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--map", type=Path, required=True, help="from mutant_map.py")
    parser.add_argument("--log", type=Path, required=True, help="a line of JSON each; those in it are not run again")
    options = parser.parse_args()
    options.log.touch()
    records = [json.loads(line) for line in options.log.read_text("utf-8").splitlines()]
    done = {one["mutant"]: one["end"] for one in records}
    reach = Reach(**json.loads(options.map.read_text("utf-8")))
    chosen, known = sample(options.seed, options.n), equivalents()
    with tempfile.TemporaryDirectory() as place, options.log.open("a", encoding="utf-8") as log:
        trial = Trial(copied(Path(place)), reach)
        for mutant in chosen:
            if mutant.name in done or mutant.name in known:
                continue
            started = time.monotonic()
            end, test = trial.fate(mutant)
            done[mutant.name] = end
            seconds = round(time.monotonic() - started)
            record = {"end": end, "mutant": mutant.name, "kind": mutant.kind, "by": test, "seconds": seconds}
            print(json.dumps(record), file=log, flush=True)
    ends = Counter("equivalent" if one.name in known else done[one.name] for one in chosen)
    print(", ".join(f"{n} {end}" for end, n in ends.items()))


if __name__ == "__main__":
    main()
