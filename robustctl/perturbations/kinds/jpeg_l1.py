"""JPEG-l_1 (Kang et al., arXiv:1908.08016): a few coefficients of the image's JPEG code change much."""

import torch
from torch import Tensor, nn

from robustctl.perturbations.base import Task, at_most
from robustctl.perturbations.jpeg import Jpeg

SHARE = 0.05
"""The share of the coefficients that a step changes."""


class JpegL1(Jpeg):
    """Parameters: the change of each coefficient in its step of quantisation; their sizes sum to at most the budget."""

    unit = "steps of quantisation in all"
    highest = 4096.0
    usual = "64"
    usual_digits = "4"
    source = "Kang et al., arXiv:1908.08016 (64 is the middle of their range)"

    def start(self, task: Task) -> Tensor:
        """A random point of the ball: a random direction, most of it in a few coefficients."""
        drawn = super().start(task) / task.budget if task.budget else super().start(task)
        return self.project(drawn**9 * task.budget, task.x, task.budget)

    def project(self, z: Tensor, x: Tensor, budget: float) -> Tensor:
        """The nearest point of the ball: shrink all by the same amount (Duchi et al. 2008)."""
        size = z.abs()
        ranked = size.sort(dim=1, descending=True).values
        ranks = torch.arange(1, z.shape[1] + 1, device=z.device, dtype=z.dtype)
        excess = (ranked.cumsum(dim=1) - budget) / ranks
        last = (ranked > excess).sum(dim=1, keepdim=True).clamp(min=1) - 1
        shrink = excess.gather(1, last).clamp(min=0)
        return z.sign() * (size - shrink).clamp(min=0) * (1 - 1e-6)

    def step(self, grad: Tensor, x: Tensor, budget: float) -> Tensor:
        """Spread the budget evenly over the coefficients with the largest gradients, as l_1-APGD does."""
        most = max(int(SHARE * grad.shape[1]), 1)
        least = grad.abs().topk(most, dim=1).values[:, -1:]
        return grad.sign() * (grad.abs() >= least) * (2 * budget / most)

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """The sum of sizes is within the budget."""
        return at_most(z.abs().sum(dim=1), budget)


KIND = JpegL1()
