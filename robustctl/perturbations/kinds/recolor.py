"""ReColor (Laidlaw and Feizi, arXiv:1906.00001): one smooth function of colours, applied to every pixel alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.perturbations.boxed import Boxed

KNOTS = 8
"""The entries of the table along each channel; between them the change is interpolated, which makes it smooth."""


class ReColor(Boxed):
    """Parameters: the change of each channel at each knot of the table of colours, at most the budget."""

    unit = "change of a channel in [0,1]"
    highest = 1.0
    usual = "0.06"
    usual_digits = "0.2"
    source = (
        "Laidlaw and Feizi, arXiv:1906.00001; budget of Laidlaw et al., arXiv:2006.12655, there in CIELUV and on a "
        "finer table"
    )

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The same at each knot."""
        channels = x.shape[1]
        count = 3 * KNOTS**3 if channels == 3 else channels * KNOTS
        high = x.new_full((count,), budget)
        return -high, high

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Look each pixel's colour up, between knots by interpolation."""
        n, channels, height, width = x.shape
        if channels == 3:
            table = z.view(n, 3, KNOTS, KNOTS, KNOTS)
            places = (2 * x - 1).permute(0, 2, 3, 1)[:, None]
            change = F.grid_sample(table, places, align_corners=True, padding_mode="border")[:, :, 0]
        else:
            table = z.view(n * channels, 1, 1, KNOTS)
            right = (2 * x - 1).view(n * channels, height, width)
            places = torch.stack([right, torch.zeros_like(right)], dim=3)
            change = F.grid_sample(table, places, align_corners=True, padding_mode="border").view_as(x)
        return (x + change).clamp(0, 1)


KIND = ReColor()
