"""One-step attacks: FGSM (Goodfellow et al., arXiv:1412.6572), R+FGSM (Tramer et al., arXiv:1705.07204), FGSM with a
uniform start (Wong et al., arXiv:2001.03994); l_2 and l_1 by their own steepest steps."""

from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack
from robustctl.geometry import Generators
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Threat


def fgsm(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    step: float = 1.0,
    loss: Loss = losses.ce,
    generator: Generators | None = None,
) -> Tensor:
    """One steepest step, projected.

    Args:
        x: images (n, c, h, w) in [0,1].
        y: what ``loss`` compares the logits with.
        step: length in radii, > 0: 1 from the image itself, 1.25 from a random start.
        generator: start at a random point of the ball; None starts at ``x``.

    Returns:
        x_adv (n, c, h, w) inside ball and box in float64.
    """
    start = x if generator is None else geometry.random_start(x, threat.norm, threat.eps, generator)
    grad = oracle.loss_and_grad(start, y, loss)[2]
    moved = start + step * threat.eps * geometry.steepest_step(grad, threat.norm)
    return _inside(moved, x, threat)


def _inside(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    projected = geometry.project(x_adv, x, threat.norm, threat.eps)
    return geometry.shrink_inside(projected, x, threat.norm, threat.eps)


ATTACK = Attack(None, cost=1.0)  # a single step: for training only
