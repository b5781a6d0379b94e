"""Elastic deformation (Kang et al., arXiv:1908.08016): a flow that is smoothed before the image is resampled."""

import torch
from torch import Tensor

from robustctl.perturbations.boxed import Boxed
from robustctl.perturbations.warp import warp

SIGMA, REACH = 3.0, 12
"""The Gaussian that smooths the flow, in pixels: a window of 25 pixels with deviation 3."""


class Elastic(Boxed):
    """Parameters: displacement to the right and down of each pixel before smoothing, each at most the budget."""

    unit = "pixels of displacement"
    highest = 8.0
    usual = "0.125"
    usual_digits = "0.3"
    source = "Kang et al., arXiv:1908.08016; budget of E-AT (appendix D) and RAMP (B.3)"

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The same for each pixel."""
        high = x.new_full((2 * x.shape[2] * x.shape[3],), budget)
        return -high, high

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Smooth the flow, then resample."""
        height, width = x.shape[2:]
        flow = z.view(len(x), 2, height, width)
        flow = _smoother(height, x) @ flow @ _smoother(width, x).T
        return warp(x, flow[:, 0], flow[:, 1])


def _smoother(size: int, like: Tensor) -> Tensor:
    """Matrix (size, size) of a Gaussian along one axis; its rows sum to 1, so that nothing grows longer."""
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    offset = places[:, None] - places
    weights = (-0.5 * (offset / SIGMA) ** 2).exp() * (offset.abs() <= REACH)
    return weights / weights.sum(dim=1, keepdim=True)


KIND = Elastic()
