"""FMN, the fast minimum-norm attack (Pintor et al., arXiv:2102.12827): the least perturbation that changes the answer.

It looks for the boundary itself instead of climbing inside a fixed ball: a ball of its own shrinks while the point is
misclassified and grows while it is not. It runs on the float32 model.
"""

import math

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack, Settings
from robustctl.oracle import Oracle
from robustctl.threats import Norm, Threat

STEP = (1.0, 0.01)
"""First and last length (in l_2) of a step (arXiv:2102.12827, Sec. 3)."""
CHANGE = (0.05, 0.001)
"""First and last relative change of the ball's radius (arXiv:2102.12827, Sec. 2.3)."""
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def fmn(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    start: Tensor | None = None,
    change: tuple[float, float] = CHANGE,
) -> Tensor:
    """Run FMN (nothing is random).

    Args:
        x: images (n, c, h, w) in [0,1].
        y: labels (n,).
        steps: gradient evaluations per image, >= 1.
        start: points (n, c, h, w) in [0,1] to begin at, at any distance; without, the images themselves.
        change: first and last relative change of the radius, in (0,1).

    Returns:
        x_adv (n, c, h, w) inside ball and box in float64: the nearest misclassified point, projected onto the ball of
        the threat; the image itself if there was none.
    """
    norm = threat.norm
    x_adv, nearest = x.clone() if start is None else start.clone(), x.clone()
    found = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)  # distance of the nearest, if any
    radius = found.clone()
    for step in range(steps):
        _, margins, grad = oracle.loss_and_grad(x_adv, y, losses.margin, exact=True)
        distance = geometry.norm(x_adv - x, norm)
        wrong = margins > 0
        better = wrong & (distance < found)
        nearest = torch.where(_wide(better), x_adv, nearest)
        found = torch.where(better, distance, found)
        slope = geometry.norm(grad, DUAL[norm])
        radius = _next_radius(radius, distance, found, margins, slope, _anneal(change, step, steps))
        x_adv = x_adv + _anneal(STEP, step, steps) * geometry.steepest_step(grad, "l2")
        x_adv = geometry.project(x_adv, x, norm, radius.clamp(min=torch.finfo(x.dtype).tiny))
    margins = losses.margin(oracle.exact(x_adv), y)
    distance = geometry.norm(x_adv - x, norm)
    better = (margins > 0) & (distance < found)
    nearest = torch.where(_wide(better), x_adv, nearest)
    return geometry.shrink_inside(geometry.project(nearest, x, norm, threat.eps), x, norm, threat.eps)


def _next_radius(
    radius: Tensor, distance: Tensor, found: Tensor, margins: Tensor, slope: Tensor, change: float
) -> Tensor:
    """Radii (n,) of the next step (arXiv:2102.12827, Alg. 1).

    Until a point is misclassified, the radius is the distance to the boundary of the linear approximation. It is
    a little more here than in the paper: a linear model would be followed to its boundary and never across.
    """
    linear = distance + margins.abs() / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    grown = torch.where(found.isinf(), linear, radius) * (1 + change)
    return torch.where(margins > 0, torch.minimum(radius * (1 - change), found), grown)


def _anneal(ends: tuple[float, float], step: int, steps: int) -> float:
    """From the first to the second of ``ends`` along half a cosine."""
    first, last = ends
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def _wide(rows: Tensor) -> Tensor:
    return rows.view(-1, 1, 1, 1)


def _run(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, settings: Settings) -> Tensor:
    return fmn(oracle, x, y, threat, steps=settings.steps)


ATTACK = Attack(_run, cost=1.0, exact=True)
