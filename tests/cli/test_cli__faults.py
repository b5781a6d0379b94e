"""A write that fails, or a kill, at any place of a command: one message, and the same command then ends as ever.

The default tier tries a few places; ``-m faults`` sweeps. FAULTS_PLACES and FAULTS_SEED choose how many and which, and
FAULTS_JOURNAL names a file that gets a line of JSON for each attempt.
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faults
import hostile
import pytest
import scenes
from hub_server import TOKEN, Server
from scenes import SCENES, Stage

PLACES = int(os.environ.get("FAULTS_PLACES", "12"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))
JOURNAL = os.environ.get("FAULTS_JOURNAL")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("faults")
    library = faults.build(root)
    if library is None:
        pytest.skip("needs Linux and a C compiler, to make calls of the operating system fail")
    (root / "lfs").mkdir()
    hub = Server(root / "lfs", {TOKEN: ("alice", "write", [])})
    try:
        with faults.Forks(library, scenes.warm()) as forks:
            yield scenes.set_up(forks, hub, root)
    finally:
        hub.close()


def _sweep(stage: Stage, name: str, n: int, kind: str) -> None:
    scene = SCENES[name]
    done, expected, paths = scenes.whole(stage, scene, kills=kind == "kill")
    rng = random.Random(f"{SEED} {name} {kind}")
    wrong = []
    for number in range(n):
        if kind == "kill":
            fault = scenes.kill(scene, done, rng)
        else:
            fault = {"nth": rng.randint(1, done.calls), "error": list(faults.ERRORS)[number % 4]}
        found = scenes.attempt(stage, scene, expected, paths, fault)
        scenes.wait_for_family(stage)
        wrong.append(found)
        if JOURNAL:
            line = {"scene": name, "kind": kind, "seed": SEED, "fault": fault, "finding": found}
            with Path(JOURNAL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("name", [name for name in scenes.RACES if name not in ("two evaluations", "two studies")])
def test_commands_that_run_at_once_leave_everything_whole(stage: Stage, name: str) -> None:
    assert scenes.run_race(stage, scenes.RACES[name]) == ""


@pytest.mark.faults
@pytest.mark.parametrize("name", scenes.RACES)
def test_no_order_of_commands_that_run_at_once_does_harm(stage: Stage, name: str) -> None:
    wrong = [scenes.run_race(stage, scenes.RACES[name]) for _ in range(PLACES)]
    scenes.wait_for_family(stage)
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_a_failing_write_and_a_kill_lose_nothing(stage: Stage) -> None:
    _sweep(stage, "eval", 1, "fail")
    for name in ("digits/to-linf", "push-folder"):
        _sweep(stage, name, 1, "kill")


def _hostile(stage: Stage, name: str, n: int) -> list[str]:
    rng = random.Random(f"{SEED} {name} hostile")
    found = [hostile.attempt(stage, hostile.KINDS[name], rng) for _ in range(n)]
    if JOURNAL:
        with Path(JOURNAL).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"kind": "hostile", "name": name, "finding": one}) + "\n" for one in found)
    return list(filter(None, found))


@pytest.mark.parametrize("name", ["study", "npz", "witnesses"])
def test_a_hostile_file_is_one_message(stage: Stage, name: str) -> None:
    assert _hostile(stage, name, 1) == []


@pytest.mark.faults
@pytest.mark.parametrize("name", hostile.KINDS)
def test_hostile_files_of_every_kind_are_one_message_each(stage: Stage, name: str) -> None:
    assert _hostile(stage, name, PLACES) == []


@pytest.fixture
def small_disk(stage: Stage, tmp_path: Path) -> Iterator[Stage]:
    """The same stage on a file system of its own, of 6 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "faults", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield replace(stage, folder=place / "work")
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["eval", "import", "push-folder", "pull-hub", "digits/to-linf", "study"])
def test_a_disk_that_is_really_full_is_one_message_and_the_next_command_goes_on(small_disk: Stage, name: str) -> None:
    scene = SCENES[name]
    _, expected, paths = scenes.whole(small_disk, scene, kills=False)
    rng = random.Random(f"{SEED} {name} full")
    frees = [0, *(rng.randrange(1 << 20) for _ in range(PLACES - 1))]
    wrong = [scenes.attempt(small_disk, scene, expected, paths, {"free": free}) for free in frees]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["fail", "kill"])
@pytest.mark.parametrize("name", SCENES)
def test_no_place_of_a_command_is_a_dead_end(stage: Stage, name: str, kind: str) -> None:
    _sweep(stage, name, PLACES, kind)
