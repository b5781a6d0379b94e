"""Every method trains on the stand-in as on the CPU, to the bit, and the host never waits in a step."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin
import torch
from method_cases import cases

from robustctl import checkpoint, geometry
from robustctl.training import optim
from robustctl.training.guards import WATCHED_STEPS

CASES = cases("e-at", but=("fgsm-uniform", "mixed-margin", "ramp-auto", "rcrt", "mart", "awp"))
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
