"""The reference implementation of AutoAttack (Croce and Hein, arXiv:2003.01690): the only user of ``pyautoattack``."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from robustctl.architectures import device_of
from robustctl.data import ImageData
from robustctl.devices import kept_random, out_of_memory
from robustctl.errors import RequestError, RunError
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.evaluation.row_scheduler import Finished
from robustctl.geometry import shrink_inside
from robustctl.threats import Norm, Threat

NAME = "autoattack"
ATTACKS = tuple(family.name for family in PROTOCOLS["full"]["linf"])  # of its standard version, in their order
BOOKKEEPING = 1.5  # of its time, against the passes through the model alone
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
LEAST_CLASSES = 4  # its targeted DLR loss reads the fourth largest logit
LEAST_SIDE = 5  # its Square attack tiles an image with fifths of its side


def describe() -> str:
    """Package, version and attacks."""
    return f"pyautoattack {version('pyautoattack')} standard ({', '.join(ATTACKS)})"


def cost(norm: Norm, attack: str, n_classes: int) -> float:
    """The cost as in ``Family.cost``: ``full`` is the same protocol."""
    (family,) = (family for family in PROTOCOLS["full"][norm] if family.name == attack)
    return BOOKKEEPING * family.cost(n_classes)


def run(
    model: nn.Module,
    data: ImageData,
    meets: Sequence[int],
    done: set[int],
    threat: Threat,
    attack: str,
    *,
    seed: int,
    batch_size: int,
) -> Iterator[Finished]:
    """Run one attack on the points that it meets, in batches of fixed composition.

    The reference draws its noise for a whole batch, so a batch is either done or run entirely: that is what makes a
    resumed evaluation equal to an uninterrupted one.

    Args:
        model: in eval mode, on the device to be used.
        meets: positions in ``data``, all classified rightly. done: those among them that have their verdict.
        attack: a key of ``ATTACKS``.

    Raises:
        RequestError: fewer than 4 classes or images of less than 5x5 pixels, which the reference cannot handle.
        RunError: out of memory; smaller batches would draw other noise, so that the user must ask for them.
    """
    if min(data.x.shape[2:]) < LEAST_SIDE:
        raise RequestError(
            f"--attack autoattack needs images of at least {LEAST_SIDE}x{LEAST_SIDE} pixels; use standard"
        )
    device = device_of(model)
    for start in range(0, len(meets), batch_size):
        positions = list(meets[start : start + batch_size])
        if done.issuperset(positions):
            continue
        x, y = data.images(positions), data.y[positions]
        with _contained(device):
            adversary = _adversary(model, threat, attack, seed, _n_classes(model, x))
            try:
                x_adv, _ = adversary.run_standard_evaluation(x, y, batch_size=len(x))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise RunError(f"out of memory with {len(x)} images; try --batch-size {len(x) // 2 or 1}") from error
        yield Finished(positions, shrink_inside(x_adv.cpu(), x, threat.norm, threat.eps))


def _adversary(model: nn.Module, threat: Threat, attack: str, seed: int, n_classes: int) -> AutoAttack:
    device = device_of(model)
    adversary = AutoAttack(model, norm=NORMS[threat.norm], eps=threat.eps, version="standard", seed=seed, device=device)
    adversary.attacks_to_run = [attack]
    targets = adversary.apgd_targeted.n_target_classes
    adversary.apgd_targeted.n_target_classes = min(targets, n_classes - 1)
    adversary.fab.n_target_classes = min(adversary.fab.n_target_classes, n_classes - 1)
    return adversary


def _n_classes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        n_classes = int(model(x[:1].to(device_of(model))).shape[1])
    if n_classes < LEAST_CLASSES:
        raise RequestError(
            f"--attack autoattack needs at least {LEAST_CLASSES} classes, the model has {n_classes}; use standard"
        )
    return n_classes


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """Undo what the reference does to the process: it seeds the global generators and replaces the trace function."""
    trace = sys.gettrace()
    try:
        with kept_random(device):
            yield
    finally:
        sys.settrace(trace)
