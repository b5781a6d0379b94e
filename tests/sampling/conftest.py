"""Losses whose annealed densities are known: loss = exp(a . (z - centre)), one set of coefficients for all images."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustctl.sampling.distributions import Box
from robustctl.sampling.estimators import Estimate
from robustctl.sampling.hmc import HMC, LogLossAndGrad
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

    @classmethod
    def log_z_of(cls, images: slice, estimator: Callable[..., tuple[list[Estimate], object]]) -> Tensor:
        """log Z_10 of these of six images, by 80 samples of 4 chains; one call measures them together."""
        noise = cls.noise(6, 4)
        noise.generators = noise.generators[images]
        centre = cls.centre(3, True)
        box = Box(centre.expand(len(noise.generators) * 4, 1, 1, 3), 0.3)
        sampler = HMC(cls.exponential(cls.coefficients(3, 10), centre), box, 3)
        estimates, _ = estimator(sampler, [10.0], samples=80, chains=4, noise=noise)
        return estimates[0].log_z


@pytest.fixture(scope="session")
def forms() -> type[ClosedForms]:
    return ClosedForms
