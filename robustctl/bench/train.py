"""What one attack step of training costs beyond the forward and backward passes that it cannot do without."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from robustctl import losses
from robustctl.allocator import kept_memory
from robustctl.architectures import device_of
from robustctl.attacks.apgd import apgd
from robustctl.bench.attack import hardware
from robustctl.oracle import Oracle
from robustctl.threats import Threat


def overhead(
    model: nn.Module, threat: Threat, *, input_shape: tuple[int, int, int], batch_size: int, steps: int, rounds: int
) -> dict[str, object]:
    """Time APGD on a live model against its ``steps + 1`` forward and ``steps`` backward passes, in turns.

    Returns:
        The JSON of ``robustctl bench train``: median seconds of both, and ``overhead``, their ratio minus 1.
    """
    device = device_of(model)
    x = torch.rand(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with kept_memory(), Oracle(model) as oracle:
        y = oracle.logits(x).argmax(dim=1)

        def attack() -> None:
            apgd(oracle, x, y, threat, steps=steps, generator=torch.Generator().manual_seed(0))

        def passes() -> None:
            for _ in range(steps):
                oracle.loss_and_grad(x, y, losses.ce)
            oracle.logits(x)

        attack_seconds, pass_seconds = [], []
        for number in range(rounds + 1):
            timed = _seconds(attack, device), _seconds(passes, device)
            if number:  # the first round warms up
                attack_seconds.append(timed[0])
                pass_seconds.append(timed[1])
    ratios = [ours / plain for ours, plain in zip(attack_seconds, pass_seconds, strict=True)]
    return {
        "schema": "robustctl.bench-train/1",
        "threat": str(threat),
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "attack_seconds": statistics.median(attack_seconds),
        "passes_seconds": statistics.median(pass_seconds),
        "overhead": statistics.median(ratios) - 1,
        "hardware": hardware(device),
    }


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
