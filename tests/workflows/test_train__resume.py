"""Runs that are resumed, evaluated and fine-tuned again, within this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import robustctl
from robustctl import checkpoint, data, runs
from robustctl.architectures import Classifier
from robustctl.errors import RequestError
from robustctl.evaluation.union_request import UnionRequest
from robustctl.spec import ModelSpec
from robustctl.training import state_file
from robustctl.workflows import publish_run
from robustctl.workflows.evaluate import evaluate
from robustctl.workflows.images import NamedImages
from robustctl.workflows.subject import find_subject
from robustctl.workflows.train import train as train_model
from robustctl.workflows.training_plan import run_to_resume
from robustctl.workflows.training_request import TrainingRequest

TINY = ("train.epochs=2", "attack.steps=1", "selection.images=10", "selection.steps=1", "train.batch_size=256")

Train = Callable[..., runs.Run]


@pytest.fixture
def model(conv_model: Classifier, conv_spec: ModelSpec, tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    checkpoint.save_model(conv_model, conv_spec, directory)
    return directory


def request(**changes: Any) -> TrainingRequest:
    return TrainingRequest(**{"command": "finetune", "device": "cpu", **changes})


@pytest.fixture
def train(model: Path, tmp_path: Path) -> Train:
    """Fine-tune the model by a short recipe, for one step unless told otherwise."""

    def train(out: str = "run", max_steps: int | None = 1) -> runs.Run:
        asked = request(model=str(model), recipe="e-at", overrides=TINY, out=tmp_path / out, max_steps=max_steps)
        train_model(asked)
        return runs.Run(tmp_path / out)

    return train


def test_refused_resumption_leaves_a_live_run_alone(train: Train) -> None:
    run = train()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "written since the last save"}) + "\n")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with run.training(), pytest.raises(RequestError, match="is being trained by another process"):
        train_model(request(resume=True, out=run.path))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_room_is_looked_for_where_the_run_will_lie(
    model: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("robustctl.workflows.train.require_space", lambda *args: asked.append(args[-1]))
    train_model(request(model=str(model), recipe="e-at", overrides=TINY, max_steps=1))
    train_model(request(resume=True, out=runs.newest().path, max_steps=2))
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
            state_file.save(made[name].path, {})
    with made["live"].training():
        assert run_to_resume(request(model=record.model)) == made["ended-by-max-steps"]
    assert run_to_resume(request(model=record.model)) == made["live"]
    made["done"].update(status="interrupted")  # after its last step, before what follows the last epoch
    assert run_to_resume(request(model=record.model)) == made["done"]
    with pytest.raises(RequestError, match="no unfinished run"):
        run_to_resume(request(command="train"))


def test_best_weights_are_evaluated_and_fine_tuned_apart_from_the_last(train: Train, tmp_path: Path) -> None:
    run = train(max_steps=None)
    best = run.path / "best.safetensors"
    last = checkpoint.load_model(run.path)[0]
    changed = {name: tensor + 0.01 for name, tensor in last.net.state_dict().items()}
    checkpoint.save_tensors(changed, best)
    hashes = {}
    for text in (str(run.path), str(best)):
        subject = find_subject(text)
        assert subject.record == run.read() and subject.default_data() == "digits"
        asked = UnionRequest(subject.default_threats(), "fast", seed=0, batch_size=20)
        result, path = evaluate(subject, asked, NamedImages("digits", n=20), device="cpu")
        assert result is not None
        hashes[result.model] = (result.weights_sha256, path.parent)
    assert list(hashes) == ["run", "run/best"] and len({weights for weights, _ in hashes.values()}) == 2
    assert hashes["run"][1] == run.path / "eval" and hashes["run/best"][1] == runs.root() / "eval" / "run--best"
    assert len(publish_run._results(run.path / "eval", hashes["run"][0])) == 1
    more = request(model=str(best), recipe="e-at", overrides=TINY, out=tmp_path / "more", max_steps=1)
    train_model(more)
    record = runs.Run(tmp_path / "more").read()
    assert (record.base, record.base_sha256) == ("run/best", hashes["run/best"][0])
    with pytest.raises(RequestError, match="--weights best"):
        publish_run.find_run(str(best))


def test_weights_that_are_not_there_are_a_request_error(model: Path) -> None:
    with pytest.raises(RequestError, match="no weights at"):
        find_subject(str(model / "best.safetensors"))


def test_a_run_on_images_from_python_is_resumed_with_the_same_images(model: Path, tmp_path: Path) -> None:
    images = data.load("digits", "train", 300)
    pairs = torch.utils.data.TensorDataset(images.images(range(300)), images.y)
    asked = {"data": pairs, "out": tmp_path / "run"}
    robustctl.finetune(model, "digits/e-at", overrides=TINY, max_steps=1, **asked)
    assert runs.Run(tmp_path / "run").read().data["source"] == "TensorDataset"
    more = robustctl.finetune(resume=True, max_steps=2, **asked)
    assert more.read().step == 2
    other = torch.utils.data.TensorDataset(1 - images.images(range(300)), images.y)
    with pytest.raises(RequestError, match="have changed"):
        robustctl.finetune(resume=True, max_steps=2, **(asked | {"data": other}))
