"""Lower bounds on the margin of one image over a ball cut with the box, by CROWN's backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustctl import geometry
from robustctl.certify import exact
from robustctl.certify.exact import Least
from robustctl.certify.relaxed import Bounds, Relaxed, shapes
from robustctl.results.certificate import LEAST_MARGIN
from robustctl.threats import Threat

Advance = Callable[[int], None]


def margin_bound(
    network: nn.Module, x: Tensor, label: int, threat: Threat, rows: int, probes: Tensor, seconds: float = 0.0
) -> Least:
    """At most the least margin ``logit[label] - logit[k]`` over all k and the whole threat: positive means certified.

    Args:
        network: frozen, in float64, on the device of ``x``. x: one image (1, c, h, w) in [0,1].
        rows: how many passes are made at a time. probes: images (n, c, h, w) at which the structure is checked.
        seconds: for the exact margin to each class that CROWN does not certify; it is none in l_2. 0: CROWN alone.

    Raises:
        RequestError: the network is not made of affine layers and ReLUs alone.
    """
    bounds: list[Bounds] = []
    for shape in shapes(network, torch.cat([x, probes])):
        bounds.append(_argument_bounds(network, x, shape, bounds, threat, rows))
    logits = network(x)
    others = torch.arange(logits.shape[1], device=x.device) != label
    eye = torch.eye(logits.shape[1], dtype=x.dtype, device=x.device)
    slopes = (eye[label] - eye)[others]
    found = _least(network, x, slopes, bounds, None, threat)
    left = found <= LEAST_MARGIN
    if not seconds or threat.norm not in exact.NORMS or not left.any() or float((logits @ slopes.T).min()) <= 0:
        return Least(float(found.min()), None)
    solved = exact.least_margin(network, x, slopes[left], bounds, threat, seconds)
    return Least(max(float(found.min()), min([solved.bound, *found[~left].tolist()])), solved.image)


def passes(network: nn.Module, x: Tensor, classes: int) -> int:
    """How many forward and backward passes ``margin_bound`` makes of an image: two per ReLU, one per wrong class."""
    return 2 * sum(shape.numel() for shape in shapes(network, x)) + classes - 1


def _argument_bounds(
    network: nn.Module, x: Tensor, shape: torch.Size, bounds: list[Bounds], threat: Threat, rows: int
) -> Bounds:
    """Bounds on every argument of the next ReLU, given the bounds on all ReLUs before it."""
    width, low, high = shape.numel(), [], []
    for first in range(0, width, rows):
        some = torch.arange(first, min(first + rows, width), device=x.device)
        unit = torch.zeros(len(some), width, dtype=x.dtype, device=x.device)
        unit[torch.arange(len(some), device=x.device), some] = 1
        low.append(_least(network, x, unit, bounds, len(bounds), threat))
        high.append(-_least(network, x, -unit, bounds, len(bounds), threat))
    return Bounds(torch.cat(low).view(1, *shape), torch.cat(high).view(1, *shape))


def _least(
    network: nn.Module, x: Tensor, weights: Tensor, bounds: list[Bounds], stop: int | None, threat: Threat
) -> Tensor:
    """Lower bounds (rows,) on the rows of ``weights`` times the argument of ReLU ``stop``, or times the logits."""
    copies = x.expand(len(weights), *x.shape[1:]).clone().requires_grad_()
    relaxed = Relaxed(bounds, stop)
    with relaxed:
        relaxed.argument = network(copies)
    assert relaxed.argument is not None, "a network calls its ReLUs in the order of shapes()"
    value = (relaxed.argument.flatten(1) * weights).sum(1)
    (factor,) = torch.autograd.grad(value.sum(), copies)
    at_x = value.detach() + sum(relaxed.constants)
    return at_x + geometry.least(factor.flatten(1), x.flatten(1), threat.norm, threat.eps)
