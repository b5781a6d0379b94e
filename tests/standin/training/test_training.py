"""Every method trains on the stand-in as on the CPU, to the bit, and the host never waits in a step."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin
import torch
from method_cases import METHODS, cases
from training_fixtures import SPEC

from robustctl import checkpoint, geometry
from robustctl.architectures import build
from robustctl.recipe.outer import Hat
from robustctl.training import optim
from robustctl.training.guards import WATCHED_STEPS

E_AT = METHODS["e-at"]
RANDOM = {"name": "apgd", "steps": 2, "start": "random"}
SLOW = {"optim": {"lr": 0.02, "weight_decay": 5e-4}}
"""At 0.1 every unit of the small network dies under RCRT, on the CPU as well: then no attack perturbs anything."""
SIZED = {"threats": {"linf": "0.1", "l1": "1.5"}, "epochs": 2, "batch_size": 8}
CASES = {
    **cases("e-at", but=()),
    "score": (E_AT, {"outer": {"name": "score"}}),
    "hat": (E_AT, {"outer": {"name": "hat", "helper": "given"}, "attack": RANDOM}),
    "rcrt": (METHODS["rcrt"], SLOW),
    "rcrt-max": ({**METHODS["rcrt"], "known": "max"}, SLOW),
    "micro-batches": (E_AT, {"train": {**SIZED, "micro_batch": 3}}),
}
READS = {"mixed": 14, "mixed-margin": 14}
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
    torch.manual_seed(5)
    options = {"helper": build(SPEC)} if isinstance(settings.outer, Hat) else {}
    for part in (geometry, optim):  # the ways that are meant for accelerators
        monkeypatch.setattr(part, "is_host", lambda _: False)
    on_cpu = make_loop(settings, tmp_path / "cpu", **copy.deepcopy(options))
    on_cpu.run()
    stop = random.Random(case).randrange(1, on_cpu.position.steps - 2)
    first = make_loop(settings, tmp_path / "standin", device="standin:0", save_seconds=0.0, **copy.deepcopy(options))
    first.run(max_steps=stop)
    resumed = make_loop(settings, tmp_path / "standin", device="standin:0", resuming=True, **options)
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
