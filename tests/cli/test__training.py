import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustctl.cli._training import Request, _tensorboard, carry_out


class Writer:
    """Stands for ``torch.utils.tensorboard.SummaryWriter``, whose package is no dependency."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = 0
        written.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1


written: list[Writer] = []


def test_tensorboard_gets_the_numbers_of_every_line_under_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    written.clear()
    listen = _tensorboard(tmp_path / "tensorboard")
    listen({"kind": "steps", "pass": "method", "epoch": 1, "step": 50, "loss": 0.5, "robust_error/linf": 0.25})
    listen({"kind": "selection", "epoch": 1, "step": 60, "union": 0.75})
    listen({"kind": "prepare", "pair": ["linf", "l1"]})
    (writer,) = written
    assert writer.directory == tmp_path / "tensorboard"
    assert writer.scalars == [
        ("steps/loss", 0.5, 50),
        ("steps/robust_error/linf", 0.25, 50),
        ("selection/union", 0.75, 60),
    ]
    assert writer.flushed == 3


def test_tensorboard_files_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _tensorboard(tmp_path)({"kind": "steps", "step": 50, "loss": 0.5})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("steps/loss")] == [(50, 0.5)]


def trained(tmp_path: Path, recipe: str, **more: Any) -> dict[str, Any]:
    """The config.json of a network trained for one step."""
    asked: dict[str, Any] = {
        "command": "train",
        "model": "kw-small",
        "recipe": recipe,
        "data": "digits",
        "overrides": ("train.epochs=1", "selection.images=10"),
        "seed": None,
        "device": "cpu",
        "out": tmp_path / recipe.replace("/", "-"),
        "max_steps": 1,
        "resume": False,
        "dry_run": False,
    }
    carry_out(Request(**(asked | more)))
    config: dict[str, Any] = json.loads((asked["out"] / "config.json").read_text())
    return config


def test_a_model_is_of_the_norm_that_it_was_trained_for(tmp_path: Path) -> None:
    linf, natural = trained(tmp_path, "digits/linf-at"), trained(tmp_path, "digits/natural")
    assert (linf["norm"], linf["eps"]) == ("linf", "0.15")
    assert (natural["norm"], natural["eps"]) == (None, None), "clean images alone make a model robust in no norm"


def test_a_model_trained_from_scratch_is_pushed_under_the_licence_that_is_given(tmp_path: Path) -> None:
    trained(tmp_path, "digits/natural", push=f"file://{tmp_path}/shelf", licence="mit")
    assert "license: mit" in (tmp_path / "shelf" / "README.md").read_text()
