"""Commands that are killed or fail at any place, each with what must hold after the next command.

A stage has everything that the commands need: a run, a hub on the loopback with a model, a plain registry, a few
images, a study. Every attempt begins with a fresh copy of it.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults
import numpy as np
import torch
from hub_server import TOKEN, Repo, Server, sha256_of

from robustctl.recipe import read as recipe

METHODS = [name for name in recipe.names() if name.startswith("digits/")]
SMALL = ["--set", "train.batch_size=8", "--set", "train.epochs=2", "--set", "selection.images=8", "--set",
         "selection.steps=1", "--data", "few.npz"]  # fmt: skip
EVALUATE = ["--attack", "fast", "--precision", "float32", "-n", "12", "--eps", "linf=0.1", "--norms", "linf"]
IMPORT = ["models", "import", "done/model.safetensors", "--name", "mine", "--arch", "kw-small", "--set", "width=32",
          "--no-normalisation", "--dataset", "digits"]  # fmt: skip
STUDY = """\
models: digits-linf
recipes: digits/to-linf
data: {source: few.npz, n: 8}
threats: {linf: 0.1}
protocols: fast
precision: float32
set: {train.batch_size: 8, train.epochs: 1, selection.images: 8, selection.steps: 1, attack.steps: 2}
"""
LITTER = re.compile(r"\.part$|\.tmp$|^\.robustctl-|^\.tmp|\.part\.version$|-journal$|-wal$")
MAY_STAY = re.compile(r"\.lock$|/state/previous\.pt$|^tmp/\w{8}$")
"""The last: Python itself tries with a file of 4 bytes, under a name that nobody knows, whether it may write there."""
DIGITS = re.compile(r"\d{4}")


@dataclass
class Stage:
    """The process that forks, the hub, and the folder in which the scenes play."""

    forks: faults.Forks
    hub: Server
    base: Path
    folder: Path
    kept: dict[str, Repo] = field(default_factory=dict)

    def run(self, words: list[str], free: int | None = None, **fault: Any) -> faults.Done:
        """Run one command; with ``free``, so many bytes are free on the file system meanwhile."""
        filler = self.folder.parent / "filler"
        if free is not None:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            os.truncate(filler, max(filler.stat().st_size - free, 0))
        try:
            return self._run(words, fault)
        finally:
            filler.unlink(missing_ok=True)

    def _run(self, words: list[str], fault: dict[str, Any]) -> faults.Done:
        return self.forks.run(words, self.folder, environment=self._environment(), **fault)

    def race(self, *commands: list[str]) -> list[faults.Done]:
        return self.forks.race(list(commands), self.folder, self._environment())

    def _environment(self) -> dict[str, str]:
        places = {"ROBUSTCTL_RUNS": "runs", "ROBUSTCTL_HOME": "home", "HF_HOME": "hf", "TMPDIR": "tmp"}
        environment = {name: str(self.folder / place) for name, place in places.items()}
        return environment | {"HF_TOKEN": TOKEN, "HF_ENDPOINT": self.hub.url, "ROBUSTCTL_QUIET": "1"}

    def begin(self) -> None:
        """Everything as it was at first, on the hub too."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.base, self.folder)
        self.hub.repos.clear()
        for name, repo in self.kept.items():
            self.hub.repos[name] = Repo(repo.private, dict(repo.branches), dict(repo.commits))
        for stored in self.hub.folder.iterdir():
            if not any(stored in tree.values() for repo in self.kept.values() for tree in repo.commits.values()):
                stored.unlink()


def warm() -> list[list[str]]:
    """Commands that import whatever the scenes need."""
    few = ["-n", "4", "--eps", "linf=0.1", "--norms", "linf", "--attack", "fast", "--precision", "float32"]
    tiny = [one.replace("few.npz", "digits") for one in SMALL]
    return [
        ["-q", "finetune", "digits-linf", "--recipe", "digits/ramp", "--out", "done", *tiny, "--max-steps", "1"],
        ["-q", "eval", "digits-linf", *few],
        ["-q", *IMPORT],
    ]


def set_up(forks: faults.Forks, hub: Server, root: Path) -> Stage:
    """A stage below ``root``."""
    base = root / "base"
    for folder in (base, base / "tmp", base / "hf"):
        folder.mkdir()
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    np.savez(base / "few.npz", x=(images[:24].reshape(-1, 1, 8, 8) / 16).astype(np.float32), y=labels[:24])
    (base / "study.yaml").write_text(STUDY, encoding="utf-8")
    stage = Stage(forks, hub, base, base)
    for words in (
        _finetune("digits/to-linf", "done"),
        ["eval", "done", *EVALUATE],
        ["eval", "digits-linf", *EVALUATE, "--batch-size", "6"],
        ["push", "done", "--repo", f"file://{base}/registry", "--licence", "mit", "--allow-flags"],
        ["push", "done", "--repo", "alice/there", "--licence", "mit", "--allow-flags"],
    ):
        done = stage.run(words)
        assert done.rc == 0, done.err
    stage.kept = dict(hub.repos)
    stage.folder = root / "work"
    return stage


def _finetune(method: str, out: str) -> list[str]:
    resolved = recipe.load(method).resolved()
    short = ["--set", "attack.steps=2"] if resolved.get("attack") else []
    short += ["--set", "outer.helper=digits-linf"] if "helper" in (resolved.get("outer") or {}) else []
    return ["finetune", "digits-linf", "--recipe", method, "--out", out, *SMALL, *short]


def _tensors(path: Path) -> str:
    from robustctl.models.safetensors_header import weights_sha256

    return weights_sha256(path)


def _trained(folder: Path, name: str = "run") -> Any:
    record = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))
    weights = [_tensors(folder / name / f"{one}.safetensors") for one in ("model", "best")]
    return weights, record["status"], record["step"], record["best"]


def _result(path: Path) -> Any:
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["clean"], result["norms"], result["union"], result["points"]


def _pushed(stage: Stage) -> Any:
    tree = stage.hub.tree(stage.hub.repos["alice/new"], "main")
    return {name: sha256_of(content) for name, content in tree.items()}


def _files(root: Path) -> dict[str, str]:
    from robustctl.hub.plain_directory import sha256

    return {str(path.relative_to(root)): sha256(path) for path in root.rglob("*") if path.is_file()}


def _registry(stage: Stage) -> Any:
    return {name: digest for name, digest in _files(stage.folder / "new").items() if name != ".lock"}


def _pulled(stage: Stage) -> Any:
    found = _files(stage.folder / "home")
    return {name: digest for name, digest in found.items() if not name.endswith(".lock")}


def _studied(stage: Stage) -> Any:
    runs = stage.folder / "runs"
    (training,) = runs.glob("digits-linf-*")
    results = {path.name: _result(path) for path in (runs / "study" / "results").iterdir()}
    return _trained(runs, training.name), results


@dataclass(frozen=True)
class Scene:
    """A command, and what must be the same after a failure and the next command as without a failure."""

    words: list[str]
    outcome: Callable[[Stage], Any]
    resumable: bool = False
    family: bool = False  # it starts processes of its own
    prepare: Callable[[Stage], None] = lambda stage: None


SCENES = {
    "eval": Scene(
        ["eval", "digits-linf", *EVALUATE, "--seed", "1", "--batch-size", "6", "--json", "out.json"],
        lambda stage: _result(stage.folder / "out.json"),
    ),
    "eval-repair": Scene(
        ["eval", "digits-linf", *EVALUATE, "--batch-size", "6", "--json", "out.json"],
        lambda stage: _result(stage.folder / "out.json"),
        prepare=lambda stage: _damage(stage),
    ),
    "import": Scene(IMPORT, lambda stage: _tensors(stage.folder / "home" / "weights" / "mine.safetensors")),
    "push-hub": Scene(["push", "done", "--repo", "alice/new", "--licence", "mit", "--allow-flags"], _pushed),
    "push-folder": Scene(
        ["push", "done", "--repo", "file://{folder}/new", "--licence", "mit", "--allow-flags"], _registry
    ),
    "pull-hub": Scene(["pull", "alice/there"], _pulled),
    "pull-folder": Scene(["pull", "file://{folder}/registry"], _pulled),
    "study": Scene(["study", "study.yaml", "--jobs", "1", "--devices", "cpu"], _studied, family=True),
    **{
        method: Scene(_finetune(method, "run"), lambda stage: _trained(stage.folder), resumable=True)
        for method in METHODS
    },
}


def _damage(stage: Stage) -> None:
    """Overwrite one page in the middle of the finished store."""
    (store,) = (stage.folder / "runs" / "eval").glob("**/*.sqlite")
    with store.open("rb+") as file:
        file.seek(store.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


def words_of(scene: Scene, stage: Stage) -> list[str]:
    return [word.replace("{folder}", str(stage.folder)) for word in scene.words]


def listing(stage: Stage) -> set[str]:
    """Every path on the stage, times and hashes apart."""
    return {DIGITS.sub("0", str(path.relative_to(stage.folder))) for path in stage.folder.rglob("*")}


def whole(stage: Stage, scene: Scene, *, kills: bool) -> tuple[faults.Done, Any, set[str]]:
    """The command without a fault: what it said, its outcome, and the paths that it leaves."""
    stage.begin()
    scene.prepare(stage)
    done = stage.run(words_of(scene, stage), **({"kill_at": faults.COUNTS} if kills else {}))
    assert done.rc == 0, done.err
    return done, scene.outcome(stage), listing(stage)


def kill(scene: Scene, done: faults.Done, rng: random.Random) -> dict[str, Any]:
    """A kill at a random call, of the process or of all, or after a random part of the processor time."""
    kinds = ["kill_at", "kill_at", "kill_after", "kill_all_at"] if scene.family else ["kill_at", "kill_after"]
    kind = rng.choice(kinds)
    if kind == "kill_after":
        return {kind: max(rng.random() * done.seconds, 0.001)}
    return {kind: rng.randint(1, done.calls)}


def attempt(stage: Stage, scene: Scene, expected: Any, paths: set[str], fault: dict[str, Any]) -> str:
    """One fault and the way back; returns what is wrong, or nothing."""
    stage.begin()
    scene.prepare(stage)
    words = words_of(scene, stage)
    first = stage.run(words, **fault)
    kept = _kept(stage)
    killed = any(name.startswith("kill") for name in fault)
    if first.rc not in ((0, 1, -signal.SIGKILL) if killed else (0, 1)) or _is_broken(first):
        return f"{fault}: rc {first.rc}: {first.err[-400:]}"
    if first.rc == 1 and len(re.findall("^robustctl: ", first.err, re.MULTILINE)) != 1:  # a study quotes its steps
        return f"{fault}: not one message: {first.err[-400:]}"
    second, said = first, ""
    if first.rc:
        second, said = _go_on(stage, scene, words)
    wrong = f"{fault}, then {said}: rc {second.rc}: {second.err[-400:]} after {first.err[-300:]}"
    if second.rc != 0 or _is_broken(second):
        return f"dead end: {wrong}"
    if scene.outcome(stage) != expected:
        return f"another outcome: {wrong}"
    if lost := _lost(stage, kept):
        return f"lost {lost}: {wrong}"
    more = sorted(path for path in listing(stage) - paths if not MAY_STAY.search(path))
    litter = [str(path) for path in stage.folder.rglob("*") if LITTER.search(path.name)]
    return f"litter {more or litter}: {wrong}" if more or litter else ""


def _is_broken(done: faults.Done) -> bool:
    return "internal error" in done.err or "Traceback" in done.err


def _go_on(stage: Stage, scene: Scene, words: list[str]) -> tuple[faults.Done, str]:
    """What a user would type next: the same, or with ``--resume``; the other one if that is refused."""
    tries = [[*words, "--resume"], words] if scene.resumable else [words]
    for number, again in enumerate(tries):
        done = stage.run(again)
        if done.rc != 2 or number + 1 == len(tries):
            break
    if done.rc == 2 and "exists already" in done.err:  # an import that was whole when the kill came
        done = stage.run(["models", "verify", "mine"])
    return done, again[-1]


@dataclass(frozen=True)
class Race:
    """Commands that run at once, what comes before, how each may end, and a command that must then succeed.

    Attributes:
        ends: the allowed exit codes of the commands, in any order.
        after: run when all have ended; with a second one, that one if the first is refused.
    """

    commands: list[list[str]]
    ends: set[tuple[int, ...]]
    after: list[list[str]]
    before: list[list[str]] = field(default_factory=list)


PULL, REMOVE, MINE = ["pull", "alice/there"], ["models", "remove", "alice/there"], ["models", "remove", "mine"]
PUSH = ["push", "done", "--repo", "file://{folder}/new", "--licence", "mit", "--allow-flags"]
EVAL = ["eval", "digits-linf", *EVALUATE, "--seed", "1", "--json", "out.json"]
TRAIN = _finetune("digits/to-linf", "run")
RACES = {
    "two pulls": Race([PULL, PULL], {(0, 0)}, [["models", "verify", "alice/there"]]),
    "two removes of a repo": Race([REMOVE, REMOVE], {(0, 2)}, [PULL], [PULL]),
    "two removes": Race([MINE, MINE], {(0, 2)}, [IMPORT], [IMPORT]),
    "two imports": Race([IMPORT, IMPORT], {(0, 2)}, [["models", "verify", "mine"]]),
    "import beside remove": Race([IMPORT, MINE], {(0, 2), (0, 0)}, [["models", "verify", "mine"], IMPORT], [IMPORT]),
    "a first import beside remove": Race([IMPORT, MINE], {(0, 2), (0, 0)}, [["models", "verify", "mine"], IMPORT]),
    "pull beside remove": Race([PULL, REMOVE], {(0, 0)}, [["models", "verify", "alice/there"], PULL], [PULL]),
    "a first pull beside remove": Race([PULL, REMOVE], {(0, 2), (0, 0)}, [["models", "verify", "alice/there"], PULL]),
    "two pushes": Race([PUSH, PUSH], {(0, 0)}, [["pull", "file://{folder}/new"]]),
    "push beside pull": Race([PUSH, ["pull", "file://{folder}/new"]], {(0, 0), (0, 2), (0, 1)}, [PUSH]),
    "two evaluations": Race([EVAL, EVAL], {(0, 0), (0, 1)}, [EVAL]),
    "two trainings": Race([TRAIN, TRAIN], {(0, 2)}, [["models", "list"]]),
    "two studies": Race([["study", "study.yaml"], ["study", "study.yaml"]], {(0, 2)}, [["study", "study.yaml"]]),
}


def run_race(stage: Stage, race: Race) -> str:
    """Returns what is wrong afterwards, or nothing."""
    stage.begin()
    here = [[word.replace("{folder}", str(stage.folder)) for word in words] for words in race.commands]
    for words in race.before:
        assert stage.run(words).rc == 0
    done = stage.race(*here)
    said = [(one.rc, one.err[-300:]) for one in done]
    if tuple(sorted(one.rc for one in done)) not in race.ends or any(map(_is_broken, done)):
        return f"ends {said}"
    if any(one.rc and one.err.count("robustctl: ") != 1 for one in done):
        return f"not one message: {said}"
    for number, words in enumerate(race.after):
        after = stage.run([word.replace("{folder}", str(stage.folder)) for word in words])
        if after.rc == 0:
            break
        if _is_broken(after) or number + 1 == len(race.after) or "unknown model" not in after.err:
            return f"then {words}: {after.rc} {after.err[-300:]} {after.out[-300:]} after {said}"
    litter = [str(path) for path in stage.folder.rglob("*") if LITTER.search(path.name)]
    return f"litter {litter} after {said}" if litter else ""


def _kept(stage: Stage) -> dict[str, Any]:
    """What a kill has left: the verdicts of each store, the steps of each state with the metrics up to there."""
    found: dict[str, Any] = {}
    for store in stage.folder.glob("**/*.sqlite"):
        if not store.is_relative_to(stage.folder / "done"):
            found[str(store)] = _verdicts(store)
    for state in stage.folder.glob("**/state/last.pt"):
        if not state.is_relative_to(stage.folder / "done"):
            size = torch.load(state, weights_only=True)["metrics_bytes"]
            metrics = state.parents[1] / "metrics.jsonl"
            found[str(metrics)] = metrics.read_bytes()[:size] if metrics.is_file() else b""
    return found


def _verdicts(store: Path) -> set[Any]:
    """The rows of a copy of a store and of its journal."""
    copy = store.parents[0] / "copy"
    copy.mkdir()
    try:
        for file in store.parent.glob(f"{store.name}*"):
            shutil.copy(file, copy)
        with sqlite3.connect(copy / store.name) as rows:
            return set(rows.execute("SELECT * FROM verdicts")) | set(rows.execute("SELECT * FROM clean"))
    except sqlite3.DatabaseError:  # no table yet, or damaged
        return set()
    finally:
        shutil.rmtree(copy)


def _lost(stage: Stage, kept: dict[str, Any]) -> str:
    for name, before in kept.items():
        if isinstance(before, bytes) and not Path(name).read_bytes().startswith(before):
            return f"steps of {name}"
        if isinstance(before, set) and not before <= _verdicts(Path(name)):
            return f"verdicts of {name}"
    return ""


def wait_for_family(stage: Stage, seconds: float = 20.0) -> None:
    """Wait until no process of an attempt lives any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and _living(stage):
        time.sleep(0.05)


def _living(stage: Stage) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                here = str((process / "cwd").readlink())
            except OSError:
                continue
            if here.startswith(str(stage.folder)):
                found.append(process.name)
    return found
