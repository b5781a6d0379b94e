"""Every method trains on the stand-in as on the CPU, to the bit, and the host never waits in a step."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin
import torch

from robustctl import checkpoint, geometry
from robustctl.training import optim
from robustctl.training.guards import WATCHED_STEPS

METHODS: dict[str, dict[str, Any]] = {
    "at": {"name": "at"},
    "avg": {"name": "avg"},
    "e-at": {"name": "e-at"},
    "fgsm-previous": {"name": "fgsm", "start": "previous", "step": 1.0},
    "free": {"name": "free", "replays": 2},
    "max": {"name": "max"},
    "mixed": {"name": "mixed"},
    "mng-ac": {"name": "mng-ac", "rate": 0.01},
    "msd": {"name": "msd"},
    "natural": {"name": "natural"},
    "ramp": {"name": "ramp", "pair": ["linf", "l1"], "weight": 0.5},
    "sat": {"name": "sat"},
    "prl": {"name": "prl", "samples": 3, "rho": 0.5},
    "z-mc": {"name": "z-mc", "samples": 3, "q": 5},
    "z-ps": {"name": "z-ps", "samples": 3, "q": 5, "leapfrog": 2},
}
EXTRAS: dict[str, dict[str, Any]] = {
    "projection": {"projection": {"beta": 0.5}, "pretrain": {"epochs": 1, "lr": 0.05}},
    "average": {"average": {"decay": 0.9}, "augment": {"crop": 1, "flip": True, "cutout": 3}},
    "mixup": {"augment": {"mixup": 1.4}, "regularize": {"l1": 1e-5, "l2": 1e-4}},
    "trades": {"outer": {"name": "trades"}, "attack": {"name": "apgd", "steps": 2, "start": "random"}},
    "adam": {"optim": {"name": "adam", "lr": 0.001, "weight_decay": 0.0}},
    "bf16": {"precision": "bfloat16"},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{name: (method, {}) for name, method in METHODS.items()},
    **{name: ({"name": "e-at"}, changes) for name, changes in EXTRAS.items()},
}
READS = {"mixed": 14}
"""Reads of a step; 0 for the others. Mixed attacks each norm's images alone, and the host must know their number."""
Make = Callable[..., Any]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(directory / "model.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_cpu_and_its_steps_do_not_wait(
    case: str, settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, changes = CASES[case]
    settings = settings_for(method, **{"precision": "float32", **changes})
    for part in (geometry, optim):  # the ways that are meant for accelerators
        monkeypatch.setattr(part, "is_host", lambda _: False)
    on_cpu = make_loop(settings, tmp_path / "cpu")
    on_cpu.run()
    stop = random.Random(case).randrange(1, on_cpu.position.steps - 2)
    first = make_loop(settings, tmp_path / "standin", device="standin:0", save_seconds=0.0)
    first.run(max_steps=stop)
    resumed = make_loop(settings, tmp_path / "standin", device="standin:0", resuming=True)
    later = max(WATCHED_STEPS, resumed.position.step) + 1  # the first step brings the state to the device
    resumed.run(max_steps=min(later, resumed.position.steps - 1))
    with standin.traffic() as traffic:
        resumed._one_step(resumed.position.present)
    assert traffic.reads <= READS.get(case, 0), traffic.readers
    assert traffic.uploads == 0 or case in READS
    resumed.run()
    assert {parameter.device.type for parameter in resumed.model.parameters()} == {"standin"}
    for name, tensor in weights(tmp_path / "cpu").items():
        torch.testing.assert_close(weights(tmp_path / "standin")[name], tensor, rtol=0, atol=0)
