"""Changes single places of the numerics at random and runs the tests that mirror the file: do they notice?

    python tests/support/mutant_map.py MAP
    python tests/support/mutants.py --seed 0 --n 200 --map MAP --log LOG

A mutant is one change: another constant, another comparison, another operator, two arguments swapped, a statement left
out. It dies if a default test that runs its line fails. Kept tools were looked at: mutmut 3 and cosmic-ray 8
draw no seeded sample, run one command for all files, and leave out no statement.
"""

import argparse
import ast
import bisect
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOOP = [f"training/{name}.py" for name in ("loop", "parts", "probe", "monitor", "metrics_log", "step", "optim")]
PLACES = ("geometry.py", "attacks", "evaluation", "results", "sampling", "training/methods", *LOOP)
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.yaml")
LONGEST = 300  # seconds that the tests of a file may take
ONE_TEST, LONGER = 15, 10  # seconds of processor time that one test may take, or so many times its usual time
PRELOADED = ["torch", "torchvision", "scipy.stats", "sklearn.datasets", "pyarrow.parquet", "typer", "yaml", "pytest"]
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*"}


@dataclass(frozen=True)
class Mutant:
    """``old`` is replaced by ``new`` in a statement that starts with ``line``, in the function ``where`` of ``file``.

    ``start`` and ``end`` are positions in the file's bytes; the rest names the mutant where lines have moved. ``lines``
    are the numbers of its lines; empty for what runs when the file is imported, such as a module's constants.
    """

    file: str
    where: str
    kind: str
    line: str
    old: str
    new: str
    start: int
    end: int
    lines: range

    @property
    def name(self) -> str:
        """For people, and for the list of equivalents."""
        return f"{self.file}::{self.where}: {self.line}: {self.old} -> {self.new}"


def files() -> list[Path]:
    """The files of the numerics."""
    found = [ROOT / "robustctl" / place for place in PLACES]
    return [file for place in found for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])]


def mutants_of(file: Path) -> list[Mutant]:
    """Every mutant of a file, in the order of its text."""
    source = file.read_bytes()
    return sorted(_Finder(str(file.relative_to(ROOT)), source).found, key=lambda one: (one.start, one.new))


def sample(seed: int, n: int) -> list[Mutant]:
    """n different mutants: each from a random kind, so that constants, which are many, do not crowd out the others."""
    chance = random.Random(seed)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in (one for file in files() for one in mutants_of(file)):
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for some in by_kind.values():
        chance.shuffle(some)
    return [by_kind[chance.choice(sorted(by_kind))].pop() for _ in range(n)]


def tests_of(file: str) -> list[str]:
    """The tests that mirror a file; without such, those of its folder."""
    place = Path("tests") / Path(file).relative_to("robustctl")
    found = sorted(
        [*(ROOT / place.parent).glob(f"test_{place.stem}.py"), *(ROOT / place.parent).glob(f"test_{place.stem}__*.py")]
    )
    return [str(one.relative_to(ROOT)) for one in found] or [str(place.parent)]


def equivalents() -> dict[str, str]:
    """Mutants that change nothing that a test could see, and why."""
    return {one["mutant"]: one["why"] for one in yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8"))}


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
        reaching = self.reach.of(mutant) if mutant.lines else self.reach.tests
        near = [one for one in reaching if one.startswith(mirror)]
        far = [one for one in reaching if not one.startswith(mirror) and (mutant.lines or one.startswith(wider))]
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


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.where: list[str] = []
        self.line, self.first = "", 0
        self.inside = False  # a function's body, not what runs when the file is imported
        self.bound: set[str] = set()
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.line, self.first = self._text(node).split("\n")[0].strip(), node.lineno
            for old, new in self._left_out(node):
                self._add("statement", node, old, new)
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        bound, self.bound = self.bound, {one.arg for one in (*node.args.args, *node.args.kwonlyargs)}
        self.where.append(node.name)
        for default in (*node.args.defaults, *(one for one in node.args.kw_defaults if one)):
            self.visit(default)
        inside, self.inside = self.inside, True
        for part in node.body:
            self.visit(part)
        self.inside = inside
        self.where.pop()
        self.bound = bound

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.where.append(node.name)
        for part in node.body:
            self.visit(part)
        self.where.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self.where:  # fields and module constants with a type are declarations
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.bound |= {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages are words, not numerics."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Neither are these."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id in ("Literal", "Annotated")):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, self._text(node), str(not value))
        elif isinstance(value, int):
            self._add("constant", node, self._text(node), str(value + 1))
        elif isinstance(value, float):
            self._add("constant", node, self._text(node), repr(value * 1.5 if value else 0.1))

    def visit_Compare(self, node: ast.Compare) -> None:
        left: ast.expr = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._between("comparison", left, right, COMPARISONS.get(type(operator)))
            left = right
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._between("operator", node.left, node.right, OPERATORS.get(type(node.op)))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        arguments = [one for one in node.args if not isinstance(one, ast.Starred)]
        if len(arguments) > 1 and len(arguments) == len(node.args):
            first, second = self._text(arguments[0]), self._text(arguments[1])
            start, end = self._start(arguments[0]), self._end(arguments[1])
            if first != second:
                between = self.source[self._end(arguments[0]) : self._start(arguments[1])].decode()
                self._put("arguments", start, end, second + between + first)
        self.generic_visit(node)

    def _left_out(self, node: ast.stmt) -> Iterator[tuple[str, str]]:
        """Calls for their effect, changes in place, and assignments to names that have a value already."""
        text = self._text(node)
        if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield text, "pass"
        elif isinstance(node, ast.Assign) and self.where:
            names = [one for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            stored = {one.id for one in names if isinstance(one.ctx, ast.Store)}
            if stored and stored <= self.bound:
                yield text, "pass"

    def _between(self, kind: str, left: ast.expr, right: ast.expr, new: str | None) -> None:
        """Replace an operator; brackets around the operands stay."""
        start, end = self._end(left), self._start(right)
        text = self.source[start:end].decode()
        old = text.strip(" ()\n\\")
        if new and old and "#" not in text and "\n" not in old:
            at = start + text.encode().index(old.encode())
            self._put(kind, at, at + len(old.encode()), new)

    def _add(self, kind: str, node: ast.stmt | ast.expr, old: str, new: str) -> None:
        if self.where or kind == "constant":
            self._put(kind, self._start(node), self._end(node), new)

    def _put(self, kind: str, start: int, end: int, new: str) -> None:
        old = self.source[start:end].decode()
        last = bisect.bisect_right(self.lines, end - 1)
        lines = range(self.first, last + 1) if self.inside else range(0)
        self.found.append(Mutant(self.file, ".".join(self.where), kind, self.line, old, new, start, end, lines))

    def _start(self, node: ast.stmt | ast.expr) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.stmt | ast.expr) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.stmt | ast.expr) -> str:
        return self.source[self._start(node) : self._end(node)].decode()


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
