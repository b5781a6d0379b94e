"""The memory that a dry run foretells is what tensors take on a device that counts every byte."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl import devices
from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.spec import ModelSpec
from robustctl.training.build import build_parts
from robustctl.training.footprint import Footprint, footprint
from robustctl.training.loop import Loop

SPEC = {"input_shape": (1, 16, 16), "n_classes": 10, "dataset": "digits"}
SPEC["architecture"] = {"name": "kw-small", "args": {"width": 32, "hidden": 64}}
BATCH = 64


@pytest.mark.parametrize("name", ["natural", "e-at", "max", "ramp"])
def test_the_peak_of_a_step_is_foretold(name: str, settings_for: Callable[..., Any], tmp_path: Path) -> None:
    settings = settings_for({"name": name, **({"pair": ["linf", "l1"], "weight": 0.5} if name == "ramp" else {})})
    settings = settings.model_copy(
        update={"train": settings.train.model_copy(update={"batch_size": BATCH}), "precision": "float32"}
    )
    x = torch.rand(3 * BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(len(x)) % 10
    data = ImageData(x, y, 10, "random", "train", torch.arange(len(x)))
    device = torch.device("standin", 0)
    spec = ModelSpec.model_validate(SPEC)
    loop = Loop(build_parts(build(spec), spec, data, settings, seed=0, device=device), tmp_path)
    gc.collect()  # else memory of earlier tests may be freed in the middle, and the peak seems lower
    idle = torch.ops.standin.allocated()
    loop._begin_pass()
    for _ in range(2):
        devices.forget_peak(device)
        loop._one_step(loop.position.present)
    taken = devices.memory_peak(device) - idle
    weights = sum(parameter.nbytes for parameter in loop.model.parameters())  # were there before
    foretold = footprint(loop.parts, loop.context).total(BATCH) - weights
    assert taken <= foretold <= 1.35 * taken


def test_larger_cards_hold_larger_batches() -> None:
    found = Footprint(fixed=10**9, per_image=10**8)
    assert [found.largest_batch(size) for size in (1, 12, 24, 48, 80)] == [0, 98, 206, 422, 710]
    assert "13.8 GB for batches of 128" in found.line(128)
