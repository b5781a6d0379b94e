"""Runs one attack family on many points."""

import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from robustctl import losses, seeds
from robustctl.attacks import Run, Settings, for_evaluation
from robustctl.data import ImageData
from robustctl.devices import is_host
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.row_scheduler import FamilyRun, Finished, FullBatch
from robustctl.oracle import Oracle
from robustctl.pieces import Pieces

BY_ROWS = "apgd"
"""The attack that keeps its batch full: ``row_scheduler`` puts a new attempt in the place of one that has ended."""
COMMIT_SECONDS = 1.0
"""Points that finish within this time are judged and committed together, unless they are a batch before."""


def run_family(run: FamilyRun, positions: Sequence[int]) -> Iterator[Finished]:
    """Attack the points at ``positions`` until each is broken or its budget is spent.

    Points that survive in bf16 by no more than its rounding errors are attacked again in float32.

    Args:
        positions: points of the run's data; one that the model gets wrong as it is comes back unchanged.

    Yields:
        Each position once, in the order in which they finish.

    Raises:
        RequestError: the family's attack does not exist, is for training only, or cannot do the norm.
        RunError: the model's loss is not finite somewhere.
    """
    attack = for_evaluation(run.family.attack, run.threat.norm)
    if run.family.attack != BY_ROWS:
        yield from _run_in_batches(attack, run, positions)
        return
    batch = FullBatch(run, positions)
    yield from batch.run()
    if batch.close:
        with run.oracle.in_float32(run.image):
            yield from FullBatch(run, batch.close).run()


def _run_in_batches(attack: Run, run: FamilyRun, positions: Sequence[int]) -> Iterator[Finished]:
    """Each batch runs to its end; one that runs out of memory begins anew in halves."""
    oracle, data, family, norm = run.oracle, run.data, run.family, run.threat.norm
    pieces = run.pieces(oracle.model)
    for start in range(0, len(positions), run.batch_size):
        batch = list(positions[start : start + run.batch_size])

        def propose(piece: slice, batch: list[int] = batch) -> Tensor:
            chosen = torch.as_tensor(batch[piece])
            x, y = data.images(chosen).to(oracle.device), data.y[chosen].to(oracle.device)
            generators = seeds.generators(run.seed, seeds.attack(norm, family.name), data.indices[chosen].tolist())
            settings = Settings(family.steps, getattr(losses, family.loss), family.targets, generators)
            return attack(oracle, x, y, run.threat, settings).cpu()

        yield Finished(batch, torch.cat(pieces.run(propose, len(batch))))


def gathered(batches: Iterable[Finished], size: int) -> Iterator[Finished]:
    """Join small batches until there are ``size`` points or a second has passed, to be judged together."""
    positions: list[int] = []
    images: list[Tensor] = []
    last = time.monotonic()
    for batch in batches:
        positions += batch.positions
        images.append(batch.x_adv)
        if len(positions) >= size or time.monotonic() - last > COMMIT_SECONDS:
            yield Finished(positions, torch.cat(images))
            positions, images, last = [], [], time.monotonic()
    if positions:
        yield Finished(positions, torch.cat(images))


def default_batch_size(device: torch.device) -> int:
    """Rows that use the device well; those that do not fit its memory at once go through the model in pieces.

    On a CPU larger batches gain nothing, and more of their rows work on points that another row breaks first.
    """
    return 200 if is_host(device) else 1024


def other_batch_sizes(device: torch.device) -> tuple[int, ...]:
    """Batch sizes that small networks may be faster with, on this device, than with the default one."""
    return tuple(int(share * default_batch_size(device)) for share in (0.5, 2))


def seconds_per_batch(oracle: Oracle, data: ImageData, batch_size: int, *, exact: bool = False) -> float:
    """Time of one gradient evaluation of a full batch, the second of two, to tell how long a run may take.

    Args:
        exact: of the model itself in float32, as FAB and the reference run it.
    """
    positions = [i % len(data) for i in range(batch_size)]
    x, y = data.images(positions).to(oracle.device), data.y[torch.as_tensor(positions)].to(oracle.device)
    model = oracle.model if exact else oracle.attacked
    pieces = Pieces(min(batch_size, fitting(model, x[:1])))

    def work(piece: slice) -> Tensor:  # moving the losses waits for the device
        return oracle.loss_and_grad(x[piece], y[piece], losses.ce, exact=exact)[1].cpu()

    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        pieces.run(work, len(x))
    return time.perf_counter() - start
