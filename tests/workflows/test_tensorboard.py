import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustctl.workflows.tensorboard import tensorboard


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
    listen = tensorboard(tmp_path / "tensorboard")
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

    tensorboard(tmp_path)({"kind": "steps", "step": 50, "loss": 0.5})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("steps/loss")] == [(50, 0.5)]
