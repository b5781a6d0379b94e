"""From a perturbation's name to its sampler and its draws."""

from collections.abc import Callable

from torch import Tensor

from robustctl.oracle import Loss, Oracle
from robustctl.sampling.annealing import Sampler
from robustctl.sampling.distributions import Ball, Box, Distribution, Gaussian
from robustctl.sampling.hmc import HMC
from robustctl.sampling.log_loss import climb, log_ce
from robustctl.sampling.noise import Noise
from robustctl.sampling.perturbation import Perturbation
from robustctl.sampling.spatial import RandomWalk, Spatial


def make_sampler(
    perturbation: Perturbation, oracle: Oracle, x: Tensor, y: Tensor, leapfrog: int, log_loss: Loss = log_ce
) -> Sampler:
    """HMC for perturbations of pixels, a random walk for spatial ones.

    Args:
        x: rows (r, c, h, w), one a chain.
        y: labels (r,).
        leapfrog: gradients a move of HMC, >= 1.
    """
    if perturbation.kind == "spatial":
        return RandomWalk(lambda images: log_loss(oracle.logits(images), y), Spatial(x))
    return HMC(climb(oracle, y, log_loss), pixels(perturbation, x), leapfrog)


def draw(perturbation: Perturbation, x: Tensor, noise: Noise) -> Tensor:
    """Perturbed images (r, c, h, w) of rows x, independent of each other."""
    if perturbation.kind == "spatial":
        spatial = Spatial(x)
        return spatial.render(spatial.draw(noise))
    return pixels(perturbation, x).draw(noise)


def pixels(perturbation: Perturbation, x: Tensor) -> Distribution:
    """The distribution of a perturbation that is not spatial, around rows x."""
    assert perturbation.size is not None
    kinds: dict[str, Callable[[Tensor, float], Distribution]] = {"linf": Box, "l2": Ball, "gaussian": Gaussian}
    return kinds[perturbation.kind](x, perturbation.size)
