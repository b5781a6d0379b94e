"""What train and finetune share, within this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustctl import checkpoint, runs
from robustctl.architectures import Classifier
from robustctl.cli import _training
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec
from robustctl.training import resume

TINY = ("train.epochs=2", "attack.steps=1", "selection.images=10", "selection.steps=1", "train.batch_size=256")

Train = Callable[..., runs.Run]


@pytest.fixture
def model(conv_model: Classifier, conv_spec: ModelSpec, tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    checkpoint.save_model(conv_model, conv_spec, directory)
    return directory


def request(**changes: Any) -> _training.Request:
    values: dict[str, Any] = dict.fromkeys(("model", "recipe", "data", "seed", "out", "max_steps"))
    fixed: dict[str, Any] = {"command": "finetune", "overrides": (), "device": "cpu", "resume": False, "dry_run": False}
    return _training.Request(**{**values, **fixed, **changes})


@pytest.fixture
def train(model: Path, tmp_path: Path) -> Train:
    """Fine-tune the model by a short recipe, for one step unless told otherwise."""

    def train(out: str = "run", max_steps: int | None = 1) -> runs.Run:
        asked = request(model=str(model), recipe="e-at", overrides=TINY, out=tmp_path / out, max_steps=max_steps)
        _training.carry_out(asked)
        return runs.Run(tmp_path / out)

    return train


def test_refused_resumption_leaves_a_live_run_alone(train: Train) -> None:
    run = train()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "written since the last save"}) + "\n")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with run.training(), pytest.raises(RequestError, match="is being trained by another process"):
        _training.carry_out(request(resume=True, out=run.path))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_room_is_looked_for_where_the_run_will_lie(
    model: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("robustctl.training.start.require_space", lambda *args: asked.append(args[-1]))
    _training.carry_out(request(model=str(model), recipe="e-at", overrides=TINY, max_steps=1))
    _training.carry_out(request(resume=True, out=runs.newest().path, max_steps=2))
    train("out")
    assert asked == [runs.root(), runs.list_runs()[0].path, tmp_path / "out"]


def test_resume_takes_the_newest_run_that_is_unfinished_free_and_saved(train: Train, tmp_path: Path) -> None:
    record = train().read()
    assert (record.status, record.step, record.steps) == ("finished", 1, 10)
    made = {}
    for month, name, changes in (
        ("01", "ended-by-max-steps", {}),
        ("02", "without-state", {"status": "running", "step": 0}),
        ("03", "live", {"status": "running", "step": 0}),
        ("04", "done", {"step": 10}),
        ("05", "of-another-model", {"model": "other"}),
    ):
        made[name] = runs.create(name, "r")
        made[name].write(record.model_copy(update={"started": f"2026-{month}-01T00:00:00", **changes}))
        if name != "without-state":
            resume.save(made[name].path, {})
    with made["live"].training():
        assert _training._run_to_resume(request(model=record.model)) == made["ended-by-max-steps"]
    assert _training._run_to_resume(request(model=record.model)) == made["live"]
    made["done"].update(status="interrupted")  # after its last step, before what follows the last epoch
    assert _training._run_to_resume(request(model=record.model)) == made["done"]
    with pytest.raises(RequestError, match="no unfinished run"):
        _training._run_to_resume(request(command="train"))
