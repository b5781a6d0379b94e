import json
from pathlib import Path
from typing import Any

import pytest

from robustctl.errors import RequestError
from robustctl.publish.push import Target
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
