"""Multi Steepest Descent (Maini, Wong and Kolter, arXiv:1909.04068, Alg. 1): one path through a union of balls."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack
from robustctl.attacks.pgd import take_step
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Threat


def msd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threats: Sequence[Threat],
    *,
    step_sizes: Sequence[float],
    steps: int,
    loss: Loss = losses.ce,
    report: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Try every norm's projected step from the same point, keep the one of the highest loss for each image, repeat.

    All the norms' points go through the model in one forward pass.

    Args:
        x: images (n, c, h, w) in [0,1]; the trajectory starts there.
        y: what ``loss`` compares the logits with: labels (n,), or soft labels (n, k).
        threats: the balls. step_sizes: of each, in its own norm, > 0. steps: >= 1.
        report: told of the last step: the logits (norms, n, k) at every norm's point, and which norm each image
            took (n,), an index into ``threats``.

    Returns:
        The last point (n, c, h, w); each image's lies in the box and in the ball whose norm it took last, in float64.
    """
    x_adv, labels = x, torch.cat([y] * len(threats))
    rows = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        grad = oracle.loss_and_grad(x_adv, y, loss)[2]
        tried = torch.stack(
            [
                take_step(x_adv, x, grad, threat.norm, threat.eps, size)
                for threat, size in zip(threats, step_sizes, strict=True)
            ]
        )  # (norms, n, c, h, w)
        logits = oracle.logits(tried.flatten(0, 1))
        chosen = loss(logits, labels).view(len(threats), len(x)).argmax(dim=0)
        x_adv = tried[chosen, rows]
    if report:
        report(logits.view(len(threats), len(x), -1), chosen)
    inside = [
        geometry.shrink_inside(points, x, threat.norm, threat.eps)
        for points, threat in zip(tried, threats, strict=True)
    ]
    return torch.stack(inside)[chosen, rows]


ATTACK = Attack(None, cost=2.5)  # a step takes a gradient and a forward pass per norm; for training only
