"""Losses whose annealed densities are known: loss = exp(a . (z - centre)), one set of coefficients for all images."""

import math

import pytest
import torch
from torch import Tensor

from robustctl.sampling.hmc import LogLossAndGrad
from robustctl.sampling.noise import Noise


class ClosedForms:
    """Everything in float64, images of shape (1, 1, d)."""

    @staticmethod
    def centre(d: int, cut: bool) -> Tensor:
        """All pixels at the middle of [0,1]; or (cut) some so near 0 and 1 that a ball around them is cut."""
        pixels = torch.linspace(0.1, 1, d, dtype=torch.float64) if cut else torch.full((d,), 0.5, dtype=torch.float64)
        return pixels.reshape(1, 1, d)

    @staticmethod
    def coefficients(d: int, reach: float) -> Tensor:
        """Unequal coefficients (1, 1, d) of both signs whose sizes sum to ``reach``."""
        a = torch.randn(1, 1, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
        return a * reach / a.abs().sum()

    @staticmethod
    def exponential(a: Tensor, centre: Tensor) -> LogLossAndGrad:
        def log_loss_and_grad(z: Tensor) -> tuple[Tensor, Tensor]:
            grad = a.expand_as(z)
            return (grad * (z - centre)).flatten(1).sum(1), grad

        return log_loss_and_grad

    @staticmethod
    def log_z_box(a: Tensor, low: Tensor, high: Tensor, centre: Tensor, q: float) -> Tensor:
        """log Z_q under the uniform distribution between low and high: sinh(u) / u a coordinate."""
        u = (q * a * (high - low) / 2).abs()
        log_sinh = u + torch.log1p(-torch.exp(-2 * u)) - math.log(2)
        return (q * (a * ((low + high) / 2 - centre)).sum() + (log_sinh - u.log()).sum()) / q

    @staticmethod
    def noise(n: int, per_image: int, seed: int = 0) -> Noise:
        """Noise for n images whose seeds depend on ``seed``."""
        generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]
        return Noise(generators, per_image, torch.empty(0, dtype=torch.float64))


@pytest.fixture(scope="session")
def forms() -> type[ClosedForms]:
    return ClosedForms
