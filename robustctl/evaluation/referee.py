"""The referee: re-scores what an attack proposes in float32, and measures it in float64. Nothing else says "broken"."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.architectures import device_of
from robustctl.data import ImageData
from robustctl.devices import true_float32
from robustctl.errors import RequestError, RunError
from robustctl.modes import kept_modes
from robustctl.pieces import Pieces
from robustctl.threats import CurveNorm, Reach, Threat

TOLERANCE = 1e-6  # relative, on the norm; the box has none
SNAP = 1e-4  # of a step of 1/255: a float32 that was meant to be a whole step is nearer than that
PASSES = 21
"""Fresh passes that judge a point of a random model; odd, so that they have a majority."""


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on n proposals, all of shape (n,) on the CPU.

    Attributes:
        broken: misclassified (by most passes) and inside.
        inside: within ball and box.
        margin: largest wrong logit minus the right one, float32; the median of the passes.
        right: share of the passes that are right.
    """

    broken: Tensor
    inside: Tensor
    margin: Tensor
    right: Tensor


@dataclass(frozen=True)
class Votes:
    """The answer of several passes about n images, all of shape (n,): median margin, and share of passes that are
    right.

    ``wrong`` says which images most of the passes misclassify. With one pass it is that pass's answer.
    """

    wrong: Tensor
    margin: Tensor
    right: Tensor


@contextmanager
def float32_eval(model: nn.Module) -> Iterator[None]:
    """Eval mode and true float32 arithmetic while the block runs; everything is put back afterwards."""
    with kept_modes(model), true_float32(device_of(model)):
        model.eval()
        yield


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Fresh float32 logits (n, k) on the CPU of images (n, c, h, w), computed on the model's own device.

    It is one forward pass, or several if memory is short.
    """
    device = device_of(model)

    def work(piece: slice) -> Tensor:
        out: object = model(x[piece].to(device, torch.float32))
        if not isinstance(out, Tensor):
            raise RequestError(f"the model returns a {type(out).__name__}; expected a tensor of logits, one per class")
        return out.float().cpu()

    with torch.no_grad(), float32_eval(model):
        return torch.cat(Pieces(len(x)).run(work, len(x)))


def predictions(model: nn.Module, data: ImageData, batch_size: int) -> Tensor:
    """The class (n,) of every image."""
    starts = range(0, len(data), batch_size)
    batches = (data.images(range(start, min(start + batch_size, len(data)))) for start in starts)
    return torch.cat([logits(model, x).argmax(dim=1) for x in batches])


def vote(model: nn.Module, x: Tensor, y: Tensor, passes: int, what: str = "finds an image on which") -> Votes:
    """Classify images x (n, c, h, w) with labels y (n,), on the CPU, in ``passes`` fresh passes.

    Raises:
        RunError: logits are not finite; ``what`` begins the sentence about an attack.
    """
    margins, right = [], []
    for _ in range(passes):
        scores = logits(model, x)
        require_finite(scores, f"{what} the model's logits are")
        margins.append(losses.margin(scores, y))
        right.append(scores.argmax(dim=1) == y)
    share = torch.stack(right).float().mean(dim=0)
    return Votes(share < 0.5, torch.stack(margins).median(dim=0).values, share)


def judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat | Reach, passes: int = 1) -> Verdicts:
    """Judge what an attack proposes for images x (n, c, h, w) float32 in [0,1] with labels y (n,), all on the CPU.

    Args:
        passes: of a random model, ``PASSES``; a point is broken only if most of them are wrong.

    Raises:
        RunError: x_adv or its logits are not finite. Such a point is a fault of attack or model, never "robust".
    """
    require_finite(x_adv, "proposes an image")
    votes = vote(model, x_adv, y, passes)
    inside = in_ball(x_adv, x, threat) & in_box(x_adv)
    return Verdicts(votes.wrong & inside, inside, votes.margin, votes.right)


def judge_8bit(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat, passes: int = 1) -> Verdicts:
    """Judge whether x_adv (n, c, h, w) still breaks its points when it is an 8-bit image.

    Every pixel is rounded towards x, so that rounding does not lengthen the perturbation; images and labels are as for
    ``judge``. Ball and box are checked again, in exact steps of 1/255: if x itself is no 8-bit image, the nearest one
    may lie outside, and then nothing is broken.

    Raises:
        RunError: the logits of a rounded image are not finite.
    """
    rounded, here = to_8bit(x_adv, x) / 255, _levels(x, 0) / 255
    votes = vote(model, rounded.float(), y, passes)
    inside = in_ball(rounded, here, threat) & in_box(rounded)
    return Verdicts(votes.wrong & inside, inside, votes.margin, votes.right)


def to_8bit(x_adv: Tensor, x: Tensor) -> Tensor:
    """Whole numbers 0..255 in float64: each pixel of x_adv in [0,1] rounded towards x, or x rounded to the nearest if
    none lies between."""
    here, there = _levels(x, 0), _levels(x_adv, SNAP)
    towards = torch.where(there > here, there.floor(), there.ceil())
    passed = (towards - here) * (there - here) <= 0
    return torch.where(passed, here.round(), towards)


def _levels(x: Tensor, snap: float) -> Tensor:
    """Pixels in steps of 1/255, float64. A float that stands for a whole step or is within ``snap`` of it is whole."""
    levels = x.double() * 255
    whole = levels.round()
    return torch.where((whole.float() / 255 == x) | ((levels - whole).abs() <= snap), whole, levels)


def in_ball(x_adv: Tensor, x: Tensor, threat: Threat | Reach) -> Tensor:
    """Whether the float64 norm of x_adv - x is at most eps (1 + 1e-6), shape (n,)."""
    return distance(x_adv, x, threat.norm) <= threat.eps * (1 + TOLERANCE)


def in_box(x_adv: Tensor) -> Tensor:
    """Whether every pixel is in [0,1], with no tolerance, shape (n,)."""
    return ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)


def distance(x_adv: Tensor, x: Tensor, norm: CurveNorm) -> Tensor:
    """Norm of x_adv - x in float64, shape (n,); l0 counts the pixels that differ in any channel.

    On purpose not shared with the attacks' geometry.
    """
    if norm == "l0":
        return (x_adv != x).any(dim=1).flatten(1).sum(dim=1).double()
    delta = (x_adv.double() - x.double()).flatten(1).abs()
    if norm == "linf":
        return delta.amax(dim=1)
    return delta.square().sum(dim=1).sqrt() if norm == "l2" else delta.sum(dim=1)


def require_finite(values: Tensor, what: str) -> None:
    """Raise RunError unless all values (n, ...) are finite; ``what`` says who gave them, as in "proposes an image"."""
    broken = (~values.isfinite()).flatten(1).any(dim=1)
    if broken.any():
        raise RunError(
            f"the attack {what} not finite (number {int(broken.nonzero()[0])} of its batch); "
            "no verdict was stored for that batch"
        )
