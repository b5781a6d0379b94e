"""CLIP's image tower trains on the stand-in as on the CPU, up to rounding: FARE's loss of embeddings, and TeCoA's."""

import copy
from pathlib import Path
from typing import Any

import pytest
import standin
import torch

from robustctl import geometry
from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.recipe.read import from_resolved
from robustctl.spec import ModelSpec
from robustctl.training import optim
from robustctl.training.build import build_parts
from robustctl.training.guards import WATCHED_STEPS
from robustctl.training.loop import Loop

pytest.importorskip("transformers", reason="CLIP is an extra")

TINY = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "projection": 8}
SPEC = ModelSpec.model_validate(
    {"architecture": {"name": "clip", "args": TINY}, "input_shape": (3, 8, 8), "n_classes": 5, "dataset": "cifar10"}
)
RADII = {"linf": "0.1", "l2": "0.5", "l1": "1.5"}
METHODS = {"fare": {"name": "fare"}, "tecoa": {"name": "avg"}}


def make_loop(method: str, device: str, directory: Path) -> Loop:
    directory.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "dataset": "cifar10",
        "about": {"paper": "none", "cost": "none"},
        "method": METHODS[method],
        "train": {"threats": RADII, "epochs": 2, "batch_size": 4, "freeze": ["head"]},
        "evaluate": {"threats": RADII},
        "attack": {"name": "pgd", "steps": 2, "step": dict.fromkeys(RADII, 0.5), "start": "random"},
        "optim": {"lr": 0.005, "weight_decay": 0.01},
        "schedule": {"name": "constant"},
        "selection": {"images": 4, "steps": 1},
        "precision": "float32",
    }
    torch.manual_seed(0)
    x, y = torch.rand((36, 3, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(36) % 5
    data = ImageData(x, y, 5, "random", "train", torch.arange(36))
    parts = build_parts(
        build(SPEC), SPEC, data, from_resolved(copy.deepcopy(values)), seed=0, device=torch.device(device)
    )
    return Loop(parts, directory)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_tower_trains_as_on_the_cpu_and_its_steps_do_not_wait(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (geometry, optim):
        monkeypatch.setattr(part, "is_host", lambda _: False)
    on_cpu, there = make_loop(method, "cpu", tmp_path / "cpu"), make_loop(method, "standin:0", tmp_path / "standin")
    on_cpu.run()
    there.run(max_steps=WATCHED_STEPS + 1)
    with standin.traffic() as traffic:
        there._one_step(there.position.present)
    assert traffic.reads == 0, traffic.readers
    there.run()
    for name, tensor in on_cpu.model.state_dict().items():
        torch.testing.assert_close(there.model.state_dict()[name].cpu(), tensor, rtol=0, atol=1e-5)
