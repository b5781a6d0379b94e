"""Compares the fast copy of a model with the model itself, on real images and before any attack.

Attacks run on the copy only if its logits and its input gradients are the model's up to rounding. Otherwise they run on
the model itself: a copy without the model's own gradient would call every image robust.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustctl import geometry, losses
from robustctl.architectures import device_of
from robustctl.devices import kept_random, true_float32
from robustctl.fast_copy import FastCopy
from robustctl.modes import frozen
from robustctl.precision import Precision

PROBE = 8
"""Images that the comparison takes, at most."""
TINY = 1e-30


class Tolerance(NamedTuple):
    """The differences that still count as rounding, relative per image: of logits, of gradients, and the least cosine.

    The error of the logits is measured against their spread around their mean, which is all that a prediction sees.
    """

    logits: float
    gradient: float
    cosine: float


TOLERANCES = {
    # Sums in another order. Units that this moves over the kink of a ReLU change the gradient by up to 1 % (a VGG with
    # random weights), mostly by a millionth.
    "float32": Tolerance(1e-3, 0.1, 0.995),
    # Eight bits of mantissa in every layer. Changes beyond rounding were found in float32 before.
    "bf16": Tolerance(0.25, 1.0, 0.5),
}
SATURATED = 1e-3
"""A gradient shorter than this share of the margin's own is compared against that share: the cross-entropy of a certain
prediction consists of cancelled digits."""


@dataclass(frozen=True)
class Trusted:
    """The network that attacks may run on.

    Attributes:
        network: the copy, or the model itself.
        precision: the precision that the network computes in.
        copied: whether ``network`` is a copy.
        reason: why it is not the copy that was wanted; empty if it is.
        copy: what made ``network``, if it is a copy.
    """

    network: nn.Module
    precision: Precision
    copied: bool
    reason: str = ""
    copy: FastCopy | None = None

    @property
    def channels_last(self) -> bool:
        """Whether the network is a copy in this order."""
        return self.copy is not None and self.copy.channels_last

    def refresh(self) -> None:
        """Let a copy in float32 take over the weights that the model has now. The comparison is not made again."""
        if self.copy is not None:
            self.copy.refresh()

    def __str__(self) -> str:
        """The thing that is attacked and why, as it ends a sentence."""
        network = f"a copy in {self.precision}" if self.copied else "the model itself"
        return f"{network}: the faster copy is not equal to the model, {self.reason}" if self.reason else network


def trusted_copy(model: nn.Module, precision: Precision, images: Tensor, *, channels_last: bool = True) -> Trusted:
    """Make the copy and compare it with the model, in float32 and in the precision wanted.

    A copy in bf16 that differs by more than rounding gives way to one in float32, and this to the model itself.

    Args:
        model: in any mode, which it keeps.
        images: real ones, (n, c, h, w) in [0,1], on the model's device; at most ``PROBE`` of them are used.
        channels_last: the order of the copy in memory, if the model's code runs so.
    """
    images = geometry.contiguous(images[:PROBE])
    exact, reason = _compared(model, "float32", images, channels_last)
    if exact is None:
        return Trusted(model, "float32", False, reason)
    if precision == "float32":
        return Trusted(exact.network, precision, True, copy=exact)
    low, reason = _compared(model, precision, images, channels_last)
    if low is None:
        return Trusted(exact.network, "float32", True, reason, exact)
    return Trusted(low.network, precision, True, copy=low)


def _compared(
    model: nn.Module, precision: Precision, images: Tensor, channels_last: bool
) -> tuple[FastCopy | None, str]:
    """A copy in this precision; or None, and why it may not stand for the model."""
    try:
        fast = FastCopy(model, precision, images[:1], channels_last=channels_last)
        reason = difference(model, fast.network, images, TOLERANCES[precision])
    except Exception as error:  # the code that a copy runs is the model's own, and may raise anything at all
        lines = str(error).strip().splitlines() or [""]
        return None, f"it cannot be run ({type(error).__name__}: {lines[0]})"
    return (None, reason) if reason else (fast, "")


def difference(model: nn.Module, fast: nn.Module, images: Tensor, tolerance: Tolerance) -> str:
    """Compare logits, and input gradients of several losses, of two networks on each image.

    The model computes in true float32. Its predictions are the labels. Images go through one by one, which any memory
    holds that an attack can work with.

    Args:
        images: (n, c, h, w) in [0,1], on the device of both.

    Returns:
        The differences by more than rounding, in words; empty if there are none.
    """
    reasons = (_difference(model, fast, image[None], tolerance) for image in images)
    return next(filter(None, reasons), "")


def difference_on_batch(expected: nn.Module, found: nn.Module, images: Tensor, tolerance: Tolerance) -> str:
    """The same as ``difference`` for a network that is made for batches of this size, under the caller's autocast.

    All ``images`` go through at once; the first ``PROBE`` are compared.
    """
    with torch.no_grad():
        ranked = expected(images).argsort(dim=1, descending=True)
    one, other = (_answers(network, images, ranked) for network in (expected, found))
    rows = range(min(len(images), PROBE))
    reasons = (_beyond_rounding(_row(one, row), _row(other, row), tolerance) for row in rows)
    return next(filter(None, reasons), "")


def _answers(network: nn.Module, images: Tensor, ranked: Tensor) -> dict[str, Tensor]:
    """The same as ``_probe``, with a pass for each gradient: compiled code forgets a pass with its gradient."""
    with torch.no_grad():
        found = {"logits": network(images).float()}
    for name, loss in _losses(ranked).items():
        x = images.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(network(x).float()).sum(), x)
        found[name] = gradient.float()
    return found


def _row(answers: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: values[row : row + 1] for name, values in answers.items()}


def _difference(model: nn.Module, fast: nn.Module, image: Tensor, tolerance: Tolerance) -> str:
    expected, ranked = _probe(model, image, None)
    found, _ = _probe(fast, image, ranked)
    return _beyond_rounding(expected, found, tolerance)


def _beyond_rounding(expected: dict[str, Tensor], found: dict[str, Tensor], tolerance: Tolerance) -> str:
    """Judge logits (1, k) and gradients (1, c, h, w) of one image."""
    logits = expected["logits"]
    spread = logits - logits.mean()
    error = _length(found["logits"] - logits) / max(_length(spread) + 1e-5 * _length(logits), TINY)
    if not error <= tolerance.logits:  # also if it is not a number
        return f"its logits differ from the model's (relative error {error:.2g})"
    if expected.keys() != found.keys():
        return "only one of the two has input gradients"
    for loss in [name for name in expected if name != "logits"]:
        size, floor = _length(expected[loss]), SATURATED * _length(expected["margin"])
        error = _length(found[loss] - expected[loss]) / max(size, floor, TINY)
        cosine = _cosine(found[loss], expected[loss])
        if not (error <= tolerance.gradient and (cosine >= tolerance.cosine or size <= floor)):
            return (
                f"its input gradients differ from the model's ({loss}: cosine {cosine:.3f}, relative error {error:.2g})"
            )
    return ""


Loss = Callable[[Tensor], Tensor]


def _probe(network: nn.Module, image: Tensor, ranked: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """Logits, and one gradient per loss if there is any; and the classes (1, k) in the order of the logits.

    Args:
        ranked: the order to use; None is the network's own.
    """
    with frozen(network), true_float32(device_of(network)), _seeded(image.device), torch.enable_grad():
        x = image.detach().clone().requires_grad_(True)
        out: Tensor = network(x)
        logits = out.float()
        if ranked is None:
            ranked = logits.detach().argsort(dim=1, descending=True)
        found = {"logits": logits.detach()}
        if logits.requires_grad:
            for name, loss in _losses(ranked).items():
                (gradient,) = torch.autograd.grad(loss(logits).sum(), x, retain_graph=True, allow_unused=True)
                found[name] = torch.zeros_like(image) if gradient is None else gradient.float()
    return found, ranked


def _losses(ranked: Tensor) -> dict[str, Loss]:
    """The attacks' losses for fixed classes: rounding may swap two classes that are almost equal, and with them the
    classes that a margin or DLR looks at."""
    first, second, third = (ranked[:, min(rank, ranked.shape[1] - 1)] for rank in range(3))
    found: dict[str, Loss] = {
        "margin": lambda logits: losses.margin_targeted(logits, first, second),
        "ce": lambda logits: losses.ce(logits, first),
        "ce of the second class": lambda logits: losses.ce(logits, second),
    }
    if ranked.shape[1] > 2:
        found["dlr"] = lambda logits: (
            losses.margin_targeted(logits, first, second) / -losses.margin_targeted(logits, first, third)
        )
    return found


def _length(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values.double()))


def _cosine(a: Tensor, b: Tensor) -> float:
    """The same as ``torch.cosine_similarity``, which however calls gradients shorter than 1e-8 orthogonal."""
    return float((a.double() * b.double()).sum()) / max(_length(a) * _length(b), TINY)


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random numbers for both networks, and the caller's own afterwards."""
    with kept_random(device):
        torch.manual_seed(0)
        yield
