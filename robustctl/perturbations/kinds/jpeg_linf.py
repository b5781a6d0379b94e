"""JPEG-l_inf (Kang et al., arXiv:1908.08016): every coefficient of the image's JPEG code changes a little."""

from torch import Tensor

from robustctl.perturbations import jpeg
from robustctl.perturbations.boxed import Boxed


class JpegLinf(Boxed):
    """Parameters: the change of each coefficient in its step of quantisation (quality 50), at most the budget."""

    unit = "steps of quantisation"
    highest = 16.0
    usual = "0.125"
    usual_digits = "0.5"
    source = "Kang et al., arXiv:1908.08016; budget of RAMP (B.3; E-AT has 0.25)"

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The same for each coefficient."""
        high = x.new_full((jpeg.count(tuple(x.shape[1:])),), budget)
        return -high, high

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Add what the change of the coefficients does to the pixels."""
        return (x + jpeg.change(z, tuple(x.shape[1:]))).clamp(0, 1)


KIND = JpegLinf()
