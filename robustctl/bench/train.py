"""Times a training step that attacks the fast copy, and one as the methods' authors write it."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.allocator import kept_memory
from robustctl.architectures import device_of
from robustctl.attacks.apgd import apgd
from robustctl.devices import hardware, is_host, wait_for
from robustctl.oracle import Oracle
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.attacked import Attacked
from robustctl.training.compiled import Compiled


def compare(
    model: nn.Module,
    threat: Threat,
    *,
    input_shape: tuple[int, int, int],
    batch_size: int,
    steps: int,
    rounds: int,
    compiled: bool = False,
) -> dict[str, object]:
    """Time a training step of ours against one as the methods' authors write it, and against one without the copy.

    A step is ``steps`` steps of APGD and one pass of training with gradients of the weights. Ours attacks the fast copy
    with refreshed weights, and trains in channels-last order. The authors' public code attacks the live model, and
    trains it, in the order in which torch makes it. The third step attacks the live model in channels-last order. All
    take turns. Seconds on a CPU are the process's own, which other work on the machine disturbs least.

    Args:
        model: in training mode, on its device, as torch makes it.
        compiled: time our step once more, with the copy and the training pass compiled (``compile: true``).

    Returns:
        The JSON of ``robustctl bench train``: median seconds of each attack and training pass; ``step_ratio`` and
        ``attack_ratio``, ours by the authors'; ``copy_ratio``, our step by the one without the copy; ``overhead`` of
        the live attack over its ``steps + 1`` forward and ``steps`` backward passes. With ``compiled`` also the ratios
        ``compiled_step_ratio`` and ``compiled_attack_ratio``, and ``compile_seconds``, which are spent once a run.
    """
    device = device_of(model)
    x = torch.rand(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    ordered = copy.deepcopy(model).to(memory_format=torch.channels_last)
    attacked = Attacked(ordered, World())
    with attacked.oracle(x) as oracle:
        y = oracle.logits(x).argmax(dim=1)

    def attack(make: Callable[[], Oracle]) -> Tensor:
        with make() as oracle:
            return apgd(oracle, x, y, threat, steps=steps, generator=torch.Generator().manual_seed(0))

    def passes() -> None:
        with Oracle(ordered) as oracle:
            for _ in range(steps):
                oracle.loss_and_grad(x, y, losses.ce)
            oracle.logits(x)

    def train(network: nn.Module) -> None:
        losses.ce(network(x), y).mean().backward()  # type: ignore[no-untyped-call]

    work: dict[str, Callable[[], object]] = {
        "attack": lambda: attack(lambda: attacked.oracle(x)),
        "live_attack": lambda: attack(lambda: Oracle(ordered)),
        "authors_attack": lambda: attack(lambda: Oracle(model)),
        "training": lambda: train(ordered),
        "authors_training": lambda: train(model),
        "passes": passes,
    }
    start = time.perf_counter()
    if compiled:
        code, network = Attacked(ordered, World(), compiled=True), Compiled(ordered, "training's own passes")
        code.oracle(x)
        train(network)  # only now are both compiled
        work["compiled_attack"] = lambda: attack(lambda: code.oracle(x))
        work["compiled_training"] = lambda: train(network)
    compile_seconds = time.perf_counter() - start
    with kept_memory():
        rows = [{name: _seconds(call, device) for name, call in work.items()} for _ in range(rounds + 1)][1:]

    def ratio(ours: tuple[str, ...], theirs: tuple[str, ...]) -> float:
        return statistics.median(sum(row[name] for name in ours) / sum(row[name] for name in theirs) for row in rows)

    authors = ("authors_attack", "authors_training")
    return {
        "schema": "robustctl.bench-train/2",
        "threat": str(threat),
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "fast_copy": not attacked.state(),
        **{f"{name}_seconds": statistics.median(row[name] for row in rows) for name in work},
        "step_ratio": ratio(("attack", "training"), authors),
        "attack_ratio": ratio(("attack",), ("authors_attack",)),
        "copy_ratio": ratio(("attack", "training"), ("live_attack", "training")),
        "overhead": ratio(("live_attack",), ("passes",)) - 1,
        **(
            {
                "compiled_step_ratio": ratio(("compiled_attack", "compiled_training"), authors),
                "compiled_attack_ratio": ratio(("compiled_attack",), ("authors_attack",)),
                "compile_seconds": compile_seconds,
            }
            if compiled
            else {}
        ),
        "hardware": hardware(device),
    }


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if is_host(device) else time.perf_counter
    start = clock()
    call()
    wait_for(device)
    return clock() - start
