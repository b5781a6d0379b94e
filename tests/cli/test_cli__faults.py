"""A write that fails, or a kill, at any place of a command: one message, and the same command then ends as ever.

The default tier tries a few places; ``-m faults`` sweeps. FAULTS_PLACES and FAULTS_SEED choose how many and which.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import pytest
from hub_server import TOKEN, Server

from robustctl.models.safetensors_header import weights_sha256
from robustctl.recipe import read as recipe

PLACES = int(os.environ.get("FAULTS_PLACES", "12"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))
METHODS = [name for name in recipe.names() if name.startswith("digits/")]
SMALL = ["--set", "train.batch_size=8", "--set", "selection.images=8", "--set", "selection.steps=1"]
EVALUATE = ["--attack", "fast", "--precision", "float32", "-n", "8", "--eps", "linf=0.1", "--norms", "linf"]
LITTER = re.compile(r"\.part$|\.tmp$|\.convert-|\.part\.version$|-journal$")


@dataclass
class Stage:
    """The process that forks, a hub, and a folder in which every scene finds a run, a model and a file to import."""

    forks: faults.Forks
    hub: Server
    base: Path
    folder: Path

    def run(self, words: list[str], **fault: Any) -> faults.Done:
        places = {"ROBUSTCTL_RUNS": "runs", "ROBUSTCTL_HOME": "home", "HF_HOME": "hf"}
        environment = {name: str(self.folder / place) for name, place in places.items()}
        return self.forks.run(words, self.folder, environment=environment | {"HF_TOKEN": TOKEN}, **fault)

    def begin(self) -> None:
        """Everything as it was at first, on the hub too."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.base, self.folder)
        self.hub.repos.pop("alice/new", None)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("faults")
    library = faults.build(root)
    if library is None:
        pytest.skip("needs Linux and a C compiler, to make calls of the operating system fail")
    (root / "lfs").mkdir()
    (root / "base").mkdir()
    hub = Server(root / "lfs", {TOKEN: ("alice", "write", [])})
    os.environ["HF_ENDPOINT"], before = hub.url, os.environ.get("HF_ENDPOINT", "")
    try:
        with faults.Forks(library) as forks:
            one = Stage(forks, hub, root / "base", root / "base")
            done = one.run(["-q", *_finetune("digits/to-linf", "done"), "--max-steps", "1", "--set", "train.epochs=1"])
            assert done.rc == 0, done.err
            record = json.loads((root / "base" / "done" / "run.json").read_text(encoding="utf-8"))
            assert record["status"] == "finished"
            one.folder = root / "work"
            yield one
    finally:
        os.environ["HF_ENDPOINT"] = before
        hub.close()


def _finetune(method: str, out: str) -> list[str]:
    return ["finetune", "digits-linf", "--recipe", method, "--out", out, *SMALL]


@dataclass(frozen=True)
class Scene:
    """A command, the one that follows its failure, and what both must come to."""

    words: list[str]
    outcome: Any
    resumable: bool = False

    def again(self, folder: Path) -> list[str]:
        resumes = self.resumable and (folder / "run" / "state" / "last.pt").is_file()
        return [*self.words, "--resume"] if resumes else self.words


def _weights(folder: Path, name: str = "run") -> str:
    return weights_sha256(folder / name / "model.safetensors") + _steps(folder / name)


def _steps(run: Path) -> str:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return f" {record['status']} {record['step']}"


def _table(folder: Path) -> Any:
    result = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return result["clean"], result["norms"], result["union"], result["points"]


def _imported(folder: Path) -> str:
    return weights_sha256(folder / "home" / "weights" / "mine.safetensors")


SCENES = {
    "eval": Scene(["eval", "digits-linf", *EVALUATE, "--json", "out.json"], _table),
    "import": Scene(
        ["models", "import", "done/model.safetensors", "--name", "mine", "--arch", "kw-small", "--set", "width=32",
         "--no-normalisation", "--dataset", "digits"],
        _imported,
    ),
    **{
        method: Scene([*_finetune(method, "run"), "--max-steps", "2"], _weights, resumable=True) for method in METHODS
    },
}  # fmt: skip


def _attempt(stage: Stage, scene: Scene, expected: Any, **fault: Any) -> str:
    """One failure and the way back; returns what is wrong, or nothing."""
    stage.begin()
    first = stage.run(["-q", *scene.words], **fault)
    killed = bool(fault.get("kill_at"))
    allowed = (0, -9) if killed else (0, 1)
    if first.rc not in allowed or "internal error" in first.err or "Traceback" in first.err:
        return f"{fault}: rc {first.rc}: {first.err[-400:]}"
    if first.rc == 1 and first.err.count("robustctl: ") != 1:
        return f"{fault}: not one message: {first.err[-400:]}"
    second = stage.run(["-q", *scene.again(stage.folder)]) if first.rc else first
    if second.rc != 0 and not (killed and "exists already" in second.err):
        return f"{fault}, then {scene.again(stage.folder)[-2:]}: rc {second.rc}: {second.err[-400:]} after {first.err}"
    if scene.outcome(stage.folder) != expected:
        return f"{fault}: another outcome"
    litter = [str(path.relative_to(stage.folder)) for path in stage.folder.rglob("*") if LITTER.search(path.name)]
    return f"{fault}: litter {litter}" if litter else ""


def _sweep(stage: Stage, name: str, n: int, kind: str) -> None:
    scene = SCENES[name]
    stage.begin()
    whole = stage.run(["-q", *scene.words])
    assert whole.rc == 0, whole.err
    expected = scene.outcome(stage.folder)
    rng = random.Random(f"{SEED} {name} {kind}")
    wrong = []
    for number in range(n):
        place = rng.randint(1, whole.calls)
        fault = {"kill_at": place} if kind == "kill" else {"nth": place, "error": list(faults.ERRORS)[number % 4]}
        wrong.append(_attempt(stage, scene, expected, **fault))
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_a_failing_write_and_a_kill_lose_nothing(stage: Stage) -> None:
    _sweep(stage, "eval", 1, "fail")
    _sweep(stage, "digits/to-linf", 1, "kill")


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["fail", "kill"])
@pytest.mark.parametrize("name", SCENES)
def test_no_place_of_a_command_is_a_dead_end(stage: Stage, name: str, kind: str) -> None:
    _sweep(stage, name, PLACES, kind)
