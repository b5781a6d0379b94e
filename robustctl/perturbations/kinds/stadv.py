"""Spatial flow (StAdv, Xiao et al., arXiv:1801.02612): each pixel is moved by itself."""

from torch import Tensor

from robustctl.perturbations.boxed import Boxed
from robustctl.perturbations.warp import warp


class StAdv(Boxed):
    """Parameters: displacement to the right and down of each pixel, each at most the budget."""

    unit = "pixels of displacement"
    highest = 8.0
    usual = "0.8"
    usual_digits = "0.2"
    source = (
        "Xiao et al., arXiv:1801.02612; budget of Laidlaw et al., arXiv:2006.12655 (0.05 of half the image's width, "
        "0.8 pixels at 32)"
    )

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The same for each pixel."""
        high = x.new_full((2 * x.shape[2] * x.shape[3],), budget)
        return -high, high

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Resample along the flow."""
        flow = z.view(len(x), 2, *x.shape[2:])
        return warp(x, flow[:, 0], flow[:, 1])


KIND = StAdv()
