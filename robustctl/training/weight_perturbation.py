"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020, arXiv:2004.05884, equations 8 to 10).

A step's gradient is taken at weights that were moved uphill, and applied to the weights as they were. It composes with
any method that attacks: the loss at the moved weights is the method's own, at the points that it has found already.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustctl.processes import World
from robustctl.training.optim import is_weight


@contextmanager
def moved_uphill(model: nn.Module, loss: Tensor, gamma: float, world: World) -> Iterator[None]:
    """Within the block each weight w stands at w + ``gamma`` |w| g / |g|, where g is its gradient of the mean of
    ``loss`` over all processes.

    Biases, scales and shifts stay. The weights are set back bit for bit at the end of the block.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and is_weight(parameter)]
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, grad in zip(weights, grads, strict=True):
            if world.size > 1:
                grad = world.mean(torch.zeros_like(weight) if grad is None else grad)
            if grad is not None:
                length = grad.norm().clamp_min(torch.finfo(grad.dtype).tiny)
                weight.add_(grad * (gamma * weight.norm() / length))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
