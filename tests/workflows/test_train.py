import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.errors import RequestError
from robustctl.publish.push import Target
from robustctl.spec import read_spec
from robustctl.workflows.publish_run import publish_run
from robustctl.workflows.train import train
from robustctl.workflows.training_request import TrainingRequest


def trained(tmp_path: Path, recipe: str, **more: Any) -> dict[str, Any]:
    """The config.json of a network trained for one step."""
    out = tmp_path / recipe.replace("/", "-")
    tiny = ("train.epochs=1", "selection.images=10")
    train(TrainingRequest("train", "kw-small", recipe, "digits", tiny, device="cpu", out=out, max_steps=1, **more))
    config: dict[str, Any] = json.loads((out / "config.json").read_text())
    return config


def test_a_model_is_of_the_norm_that_it_was_trained_for(tmp_path: Path) -> None:
    linf, natural = trained(tmp_path, "digits/linf-at"), trained(tmp_path, "digits/natural")
    assert (linf["norm"], linf["eps"]) == ("linf", "0.15")
    assert (natural["norm"], natural["eps"]) == (None, None), "clean images alone make a model robust in no norm"


def test_a_model_trained_from_scratch_is_pushed_under_the_licence_that_is_given(tmp_path: Path) -> None:
    shelf = f"file://{tmp_path}/shelf"
    with pytest.raises(RequestError, match=r"would be refused after training.*--licence"):
        trained(tmp_path, "digits/natural", push=shelf)
    trained(tmp_path, "digits/natural", push=shelf, licence="mit")
    publish_run(str(tmp_path / "digits-natural"), Target(shelf), licence="mit")
    assert "license: mit" in (tmp_path / "shelf" / "README.md").read_text()


def class_folders(place: Path, names: dict[int, str]) -> Path:
    """Digits in class folders with other names, split train."""
    digits = data.load("digits", "train", 120)
    for i in range(len(digits)):
        if (name := names.get(int(digits.y[i]))) is not None:
            (place / "train" / name).mkdir(parents=True, exist_ok=True)
            pixels = (digits.x[i, 0] * 255).round().to(torch.uint8).numpy()
            Image.fromarray(pixels).save(place / "train" / name / f"{i:03}.png")
    return place


def test_classes_by_other_names_are_learnt_recorded_and_resumed(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "d", {1: "one", 4: "four", 9: "nine"})
    tiny, out = ("selection.images=10", "train.batch_size=8"), tmp_path / "run"
    request = TrainingRequest("finetune", "digits-linf", "digits/linf-at", str(source), tiny, None, "cpu", out, 1)
    with pytest.raises(RequestError, match="has 3 classes .four, nine, one., the model 10"):
        train(request)
    (tmp_path / "map.yaml").write_text("one: 1\nfour: '4'\nnine: 9\n")
    train(replace(request, classes=tmp_path / "map.yaml"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["classes"] == {"one": 1, "four": "4", "nine": 9}
    assert train(TrainingRequest("finetune", device="cpu", out=tmp_path / "run", resume=True, max_steps=2)) is not None
    (tmp_path / "map.yaml").write_text("one: 4\nfour: 1\nnine: 9\n")
    with pytest.raises(RequestError, match="another --classes"):
        train(replace(request, classes=tmp_path / "map.yaml", resume=True))


def test_a_model_trained_from_scratch_knows_the_names_of_its_classes(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "d", {1: "one", 4: "four", 9: "nine"})
    tiny = ("selection.images=5", "train.batch_size=8")
    out = tmp_path / "run"
    train(TrainingRequest("train", "kw-small", "digits/linf-at", str(source), tiny, device="cpu", out=out, max_steps=1))
    spec = read_spec(out)
    assert (spec.classes, spec.n_classes) == (("four", "nine", "one"), 3)
    two = class_folders(tmp_path / "two", {9: "Nine", 1: "one"})
    assert set(data.load(str(two), "train", None, spec).y.tolist()) == {1, 2}


def test_pixels_and_radii_that_make_no_sense_are_refused_before_training(tmp_path: Path) -> None:
    digits = data.load("digits", "train", 60)
    np.savez(tmp_path / "twice.npz", x=digits.x.numpy() / 255, y=digits.y.numpy())
    tiny = ("selection.images=5", "train.batch_size=8")
    request = TrainingRequest(
        "finetune", "digits-linf", "digits/linf-at", str(tmp_path / "twice.npz"), tiny, device="cpu", dry_run=True
    )
    with pytest.raises(RequestError, match="divided by 255 twice. --force trains"):
        train(request)
    assert train(replace(request, force=True)) is None
    far = replace(request, data="digits", overrides=(*tiny, "train.threats.linf=8"))
    with pytest.raises(RequestError, match="train.threats: linf:8 is more than half .* Did you mean linf:8/255"):
        train(far)
    assert train(replace(far, force=True)) is None
