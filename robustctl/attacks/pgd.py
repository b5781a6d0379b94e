"""Projected gradient descent with steps of fixed length (Madry et al., arXiv:1706.06083); for l_1 with SLIDE's steps.

SLIDE (Tramer and Boneh, arXiv:1904.13000) spreads an l_1 step evenly over the pixels with the largest gradients.
"""

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Norm, Threat

SLIDE_SHARE = 0.01
"""Share of the pixels that an l_1 step moves: SLIDE's usual 99th percentile."""


def pgd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float,
    loss: Loss = losses.ce,
    start: Tensor | None = None,
) -> Tensor:
    """Take ``steps`` steps uphill and return the last point.

    Args:
        x: images (n, c, h, w) in [0,1].
        y: what ``loss`` compares the logits with: labels (n,), or soft labels (n, k).
        step_size: length of a step in the threat's norm, > 0.
        start: first point, inside ball and box; None is ``x``.

    Returns:
        x_adv (n, c, h, w) inside ball and box in float64.
    """
    x_adv = x if start is None else start
    for _ in range(steps):
        _, _, grad = oracle.loss_and_grad(x_adv, y, loss)
        x_adv = take_step(x_adv, x, grad, threat.norm, threat.eps, step_size)
    return geometry.shrink_inside(x_adv, x, threat.norm, threat.eps)


def take_step(x_adv: Tensor, x: Tensor, grad: Tensor, norm: Norm, eps: float, step_size: float) -> Tensor:
    """One projected step uphill: linf by signs, l_2 along the gradient, l_1 by SLIDE."""
    share = torch.full((len(x),), SLIDE_SHARE, device=x.device) if norm == "l1" else None
    return geometry.project(x_adv + step_size * geometry.steepest_step(grad, norm, share), x, norm, eps)


ATTACK = Attack(None, cost=1.0)  # a weak attack with a step size to choose: for training only
