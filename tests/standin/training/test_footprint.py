"""The memory that a dry run foretells is what tensors take on a device that counts every byte."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin
import torch

from robustctl import devices
from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.spec import ModelSpec
from robustctl.training.build import build_parts
from robustctl.training.footprint import footprint
from robustctl.training.loop import Loop

KW = {"name": "kw-small", "args": {"width": 32, "hidden": 64}}
WIDE = {"name": "wide-resnet", "args": {"depth": 16, "width": 1}}
BATCH = 64
Make = Callable[..., Loop]


@pytest.fixture
def loop_of(settings_for: Callable[..., Any], tmp_path: Path) -> Make:
    """A training on the stand-in; keyword arguments go into the recipe's ``train``."""

    def make(name: str, architecture: dict[str, Any] = KW, **train: Any) -> Loop:
        settings = settings_for({"name": name, **({"pair": ["linf", "l1"], "weight": 0.5} if name == "ramp" else {})})
        train = {"batch_size": BATCH, **train}
        settings = settings.model_copy(
            update={"train": settings.train.model_copy(update=train), "precision": "float32"}
        )
        x = torch.rand(3 * BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        y = torch.arange(len(x)) % 10
        data = ImageData(x, y, 10, "random", "train", torch.arange(len(x)))
        values = {"input_shape": (1, 16, 16), "n_classes": 10, "dataset": "digits", "architecture": architecture}
        spec = ModelSpec.model_validate(values)
        torch.manual_seed(0)
        return Loop(build_parts(build(spec), spec, data, settings, seed=0, device=torch.device("standin", 0)), tmp_path)

    return make


def peak(loop: Loop) -> int:
    """Bytes that the second step takes besides the model."""
    gc.collect()  # else memory of earlier tests may be freed in the middle, and the peak seems lower
    idle = torch.ops.standin.allocated()
    loop._begin_pass()
    for _ in range(2):
        devices.forget_peak(loop.parts.device)
        loop._one_step(loop.position.present)
    return devices.memory_peak(loop.parts.device) - idle


def foretold(loop: Loop) -> int:
    room, weights = loop.context.room, sum(parameter.nbytes for parameter in loop.model.parameters())
    return footprint(loop.parts, loop.context).total(BATCH, room.rows, recompute=room.recompute) - weights


@pytest.mark.parametrize("name", ["natural", "e-at", "max", "ramp"])
def test_the_peak_of_a_step_is_foretold(name: str, loop_of: Make) -> None:
    loop = loop_of(name)
    assert 1 <= foretold(loop) / peak(loop) <= 1.35


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("natural", {"micro_batch": 16}),
        ("natural", {"checkpoint": True}),
        ("ramp", {"checkpoint": True, "micro_batch": 16}),
    ],
)
def test_so_it_is_with_micro_batches_and_with_blocks_computed_twice(
    name: str, train: dict[str, Any], loop_of: Make
) -> None:
    whole = peak(loop_of(name, WIDE))
    loop = loop_of(name, WIDE, **train)
    taken = peak(loop)
    assert taken < 0.6 * whole
    assert 1 <= foretold(loop) / taken <= 1.6


def test_auto_takes_what_the_card_holds(loop_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustctl.training import footprint as module

    whole, small = peak(loop_of("natural", WIDE)), peak(loop_of("natural", WIDE, micro_batch=8))
    loop = loop_of("natural", WIDE, micro_batch="auto")
    free = (whole + small) // 2
    monkeypatch.setattr(module, "memory_of", lambda device: (free, 2 * free))
    loop._fit()
    assert 8 <= loop.context.room.rows < BATCH
    with standin.memory(free):
        loop._begin_pass()
        loop._one_step(loop.position.present)
    assert 8 <= loop.context.room.rows < BATCH


def test_a_step_that_does_not_fit_gives_way(loop_of: Make, capsys: pytest.CaptureFixture[str]) -> None:
    free = int(0.6 * peak(loop_of("natural", WIDE)))
    loop = loop_of("natural", WIDE)
    gc.collect()
    with standin.memory(free):
        loop._begin_pass()
        loop._one_step(loop.position.present)
    assert loop.context.room.recompute
    assert "memory ran out in step 1: the network's blocks are computed twice" in capsys.readouterr().err
