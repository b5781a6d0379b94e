"""Run directories: what a training left on disk. No torch here.

<time>-<model>-<recipe>/
    run.json            what was asked and what came of it (``RunRecord``)
    recipe.yaml         the recipe as it was written, whole
    config.json         the model's spec
    model.safetensors   the last weights (``robustctl.checkpoint`` reads both)
    best.safetensors    the best weights by the selection split
    metrics.jsonl       one line of measurements every few steps, and one an epoch
    state/              what --resume needs
    .lock               held by the process that trains, and free again however that process ends
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustctl.errors import RequestError
from robustctl.files import is_temporary, make_folder, sweep, write_text, writing
from robustctl.hub.names import FILE
from robustctl.locks import held, is_held
from robustctl.reading import read_json
from robustctl.spec import CONFIG, WEIGHTS

RECORD = "run.json"
RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
STEP = re.compile(r'"step": (\d+)')
LAST_BYTES = 4096
"""The end of the metrics, which holds their last line."""
EVAL = "eval"
STATE = "state"
LOCK = ".lock"
LOCK_SECONDS = 1.0  # somebody who only looks holds it for a moment

Status = Literal["running", "interrupted", "failed", "finished"]


class RunRecord(BaseModel):
    """The content of ``run.json``.

    Attributes:
        model: as the user said it: the start of a fine-tuning, or the architecture that was trained from scratch.
        base: name of the model that fine-tuning started from; None from scratch.
        base_sha256: hash of its tensors.
        new_head: whether the last layer was drawn anew.
        model_code: the user's own code that built the model, as the user named it; its hash is in ``config.json``.
        recipe_name, recipe, overrides: the recipe, everything resolved, and the ``--set`` texts in it.
        data: source, split, number and hash of the training images.
        status, message: how it stands, and why it failed if it did.
        step, steps: optimiser steps done and planned.
        best: epoch and union accuracy on the selection split of ``best.safetensors``.
        seconds: wall time of training so far, over all resumptions.
        checksum: of all the rest, so that a record that was edited or damaged is noticed; older records have none.
    """

    model_config = ConfigDict(extra="forbid")

    schema_: Literal["robustctl.run/1"] = Field("robustctl.run/1", alias="schema")
    command: Literal["train", "finetune"]
    model: str
    base: str | None = None
    base_sha256: str | None = None
    licence: str | None = None
    new_head: bool = False
    model_code: str | None = None
    recipe_name: str
    recipe: dict[str, Any]
    overrides: list[str] = []
    seed: int
    data: dict[str, Any]
    device: str
    hardware: str
    versions: dict[str, str]
    started: str
    status: Status = "running"
    message: str = ""
    step: int = 0
    steps: int = 0
    best: dict[str, float] | None = None
    seconds: float = 0.0
    checksum: str | None = None


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def eval_dir(self) -> Path:
        """Where its evaluations go: into it, or among the user's own runs if it is another user's to change."""
        own = self.path / EVAL
        return own if os.access(own if own.is_dir() else self.path, os.W_OK) else root() / EVAL / self.name

    def eval_dirs(self) -> list[Path]:
        """Where results about it may be: inside it, and among the user's own runs."""
        return list(dict.fromkeys([self.path / EVAL, self.eval_dir]))

    def read(self) -> RunRecord:
        """Read ``run.json``; raises RequestError if it is missing or damaged."""
        try:
            content = read_json(self.path / RECORD)
            record = RunRecord.model_validate(content)
        except FileNotFoundError:
            raise RequestError(f"{self.path} is no run directory: it has no {RECORD}") from None
        except (RequestError, ValidationError, ValueError) as error:
            raise RequestError(f"cannot read {self.path / RECORD}: {error}") from None
        if record.checksum is not None and record.checksum != _checksum(content):
            raise RequestError(
                f"{self.path / RECORD} was edited or damaged: its checksum does not hold. Put back the file that "
                "robustctl wrote, or start the run again"
            )
        return record.model_copy(update={"checksum": None})  # it is of the file

    def write(self, record: RunRecord) -> None:
        """Write ``run.json`` atomically."""
        content = record.model_dump(by_alias=True, mode="json")
        content["checksum"] = _checksum(content)
        write_text(self.path / RECORD, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def steps_done(self) -> int:
        """Steps done so far: as recorded, or as the last line of the metrics says, whichever is more."""
        recorded = self.read().step
        try:
            with (self.path / METRICS).open("rb") as file:
                file.seek(max((self.path / METRICS).stat().st_size - LAST_BYTES, 0))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return recorded
        steps = [int(found[1]) for line in lines if (found := STEP.search(line))]
        return max([recorded, *steps])

    def update(self, **changes: Any) -> RunRecord:
        """Change some fields of ``run.json``."""
        record = self.read().model_copy(update=changes)
        self.write(record)
        return record

    def has_state(self) -> bool:
        """Whether there is a saved state to go on from: the last one, or the one before it."""
        return any((self.path / STATE).glob("*.pt"))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold the run's lock while the block trains.

        Raises:
            RequestError: another process holds it.
        """
        busy = f"{self.path} is being trained by another process; let it finish or stop it"
        with held(self.path / LOCK, busy, LOCK_SECONDS):
            for folder in (self.path, self.path / STATE):
                sweep(folder)
            yield

    def status(self) -> Status | Literal["stopped"]:
        """The status of the run: as recorded, but ``stopped`` if it says ``running`` and no process trains it.

        Raises:
            RequestError: as ``read``.
        """
        recorded = self.read().status
        return recorded if recorded != "running" or self.is_held() else "stopped"

    def is_held(self) -> bool:
        """Whether a process trains it now."""
        return is_held(self.path / LOCK)


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a record without its checksum."""
    kept = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def root() -> Path:
    """Where runs are kept: ``$ROBUSTCTL_RUNS``, else ``runs`` in the working directory."""
    return Path(os.environ.get("ROBUSTCTL_RUNS") or "runs")


def eval_dir_of(model: str) -> Path:
    """The folder of verdicts and results of a model that is no run; a plain directory is named by its last part."""
    flat = root() / EVAL / model.replace("/", "--")
    if not model.startswith(FILE) or flat.is_dir():  # earlier versions had the whole path
        return flat
    place = model.removeprefix(FILE).rstrip("/")
    return root() / EVAL / f"{place.rpartition('/')[2]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def create(model_name: str, recipe_name: str, path: Path | None = None) -> Run:
    """Make a run directory, by default ``<root>/<time>-<model>-<recipe>``; ``begin`` then makes it one's own.

    Raises:
        RequestError: ``path`` is there already and holds more than a run that ended before its first state.
        RunError: the place is not writable.
    """
    require_free(path)
    if path is None:
        return Run(_fresh(model_name, recipe_name))
    make_folder(path)
    return Run(path)


def begin(run: Run) -> None:
    """Make sure that a new run's directory is still free, for a process that holds its lock, and remove a false start.

    Raises:
        RequestError: another process has trained there since it was made.
    """
    if not _is_false_start(run):
        raise _taken(run.path)
    with writing(run.path):
        (run.path / METRICS).unlink(missing_ok=True)


def require_free(path: Path | None) -> None:
    """Raise RequestError if the directory that the user chose for a run holds more than a false start."""
    if path is None or not path.exists():
        return
    if not path.is_dir() or not _is_false_start(Run(path)) or Run(path).is_held():
        raise _taken(path)


def _taken(path: Path) -> RequestError:
    return RequestError(f"--out {path} is there already; choose another name, or continue it with --resume")


def _is_false_start(run: Run) -> bool:
    """Whether a directory is empty, or a run began in it and ended before its first state, so that nothing is lost."""
    names = {one.name for one in run.path.iterdir() if one.name != LOCK and not is_temporary(one)}
    if not names <= {RECORD, RECIPE, METRICS, CONFIG, WEIGHTS, STATE}:
        return False
    if RECORD not in names:  # it is written first
        return not names
    try:
        began = run.read().step > 0 or run.read().status == "finished" or run.has_state()
    except RequestError:
        return False
    return not began


def list_runs() -> list[Run]:
    """All runs under the root, oldest first."""
    found = [Run(record.parent) for record in root().glob(f"*/{RECORD}")]
    return sorted(found, key=_age)


def unfinished() -> Iterator[Run]:
    """Runs with steps left (also after ``--max-steps``) and a saved state that no process trains, newest first."""
    for run in reversed(list_runs()):
        try:
            record = run.read()
        except RequestError:  # a damaged run is none to go on with unasked; ``robustctl runs`` tells of it
            continue
        steps_left = record.status != "finished" or record.step < record.steps
        if steps_left and run.has_state() and not run.is_held():
            yield run


def newest() -> Run:
    """The newest run, or RequestError when there is none."""
    found = list_runs()
    if not found:
        raise RequestError(f"there is no run in {root()}; make one with robustctl finetune MODEL --recipe R")
    return found[-1]


def find(text: str) -> Run | None:
    """The run whose directory or name is ``text``, or None."""
    for path in (Path(text), root() / text):
        if (path / RECORD).is_file():
            return Run(path)
    return None


def _age(run: Run) -> tuple[str, str]:
    try:
        return (run.read().started, run.name)
    except RequestError:
        return ("", run.name)


def _fresh(model_name: str, recipe_name: str) -> Path:
    """A new directory that no other process has made."""
    parts = (time.strftime("%Y%m%d-%H%M%S"), _slug(model_name), _slug(recipe_name))
    make_folder(root())
    for number in count(1):
        path = root() / "-".join(parts if number == 1 else (*parts, str(number)))
        with writing(path), contextlib.suppress(FileExistsError):
            path.mkdir()
            break
    return path


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(text).name or text).strip("-.") or "model"
