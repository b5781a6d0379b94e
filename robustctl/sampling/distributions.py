"""Distributions mu of the perturbed image around x, as a sampler needs them.

Each holds rows x (r, c, h, w) and offers ``draw`` (samples of mu, exact unless said otherwise), ``flight`` (free motion
and reflection, reversible and volume-keeping, so that HMC leaves its target invariant), ``log_density`` with its
gradient, and ``widths`` (the natural length of a step, pixel by pixel).
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from robustctl.sampling.noise import Noise

FLIGHTS = 32  # of the billiard that shuffles draws from a ball cut by the box


class Distribution(Protocol):
    """Attributes:
    x: centres (r, c, h, w).
    reach: trajectory length, in widths, beyond which free motion gains nothing.
    """

    x: Tensor
    reach: float

    def draw(self, noise: Noise) -> Tensor:
        """Samples (r, c, h, w) of mu."""
        ...

    def flight(self, z: Tensor, p: Tensor, way: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fly from z along p * way with reflections: position, momentum, and whether it ends in the support (r,)."""
        ...

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """log mu(z) up to a constant, (r,), and its gradient; None if the gradient is zero."""
        ...

    def widths(self, slope: Tensor) -> Tensor:
        """The length of a unit step for each pixel if log loss^t has gradients of about ``slope`` >= 0."""
        ...


class Box:
    """Uniform on the l_inf ball of radius eps, cut by the pixel box [0,1]."""

    reach = 4.0

    def __init__(self, x: Tensor, eps: float) -> None:
        self.x = x
        self.low = (x - eps).clamp(min=0)
        self.high = (x + eps).clamp(max=1)
        self.half = (self.high - self.low) / 2

    def draw(self, noise: Noise) -> Tensor:
        z = self.low + 2 * self.half * noise.uniform(*self.x.shape[1:])
        return torch.minimum(z, self.high)

    def flight(self, z: Tensor, p: Tensor, way: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, p = fold(z + way * p, p, self.low, self.high)
        return z, p, torch.ones(len(z), dtype=torch.bool, device=z.device)

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        return z.new_zeros(len(z)), None

    def widths(self, slope: Tensor) -> Tensor:
        """Half the interval, or the depth 1 / slope of the layer at the wall that holds the density, if that is
        thinner."""
        return self.half / (1 + self.half * slope)


class Ball:
    """Uniform on the l_2 ball of radius eps, cut by the pixel box [0,1].

    The walls of the box reflect exactly, coordinate by coordinate. The sphere reflects at the first position outside
    it (Skilling 2012, Galilean Monte Carlo): from there the momentum is mirrored in the radial direction and flies the
    same way again. Without the box this ends at the radius at which it began; with the box it may end outside, and the
    trajectory is then rejected. Backwards the same path is flown, so detailed balance holds.
    """

    def __init__(self, x: Tensor, eps: float) -> None:
        self.x = x
        self.eps = eps
        self.reach = 2 / math.sqrt(x[0].numel())
        self.low = torch.zeros_like(x)
        self.high = torch.ones_like(x)

    def draw(self, noise: Noise) -> Tensor:
        """The draws are exact if the box does not cut the ball; else they are folded into it and shuffled by
        ``FLIGHTS`` free flights."""
        shape = self.x.shape[1:]
        direction = noise.normal(*shape)
        radius = self.eps * noise.uniform(1, 1, 1) ** (1 / self.x[0].numel())
        z = self.x + direction * radius / _length(direction)
        if not ((z < self.low) | (z > self.high)).any():
            return z
        z, _ = fold(z, direction, self.low, self.high)
        for _ in range(FLIGHTS):
            way = self.eps * self.reach * noise.uniform(1, 1, 1)
            moved, _, inside = self.flight(z, noise.normal(*shape), way)
            z = torch.where(inside[:, None, None, None], moved, z)
        return z

    def flight(self, z: Tensor, p: Tensor, way: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, p = fold(z + way * p, p, self.low, self.high)
        radial = z - self.x
        outside = _length(radial) > self.eps
        normal = radial / _length(radial).clamp(min=1e-30)
        mirrored = p - 2 * (p * normal).flatten(1).sum(1)[:, None, None, None] * normal
        again, turned = fold(z + way * mirrored, mirrored, self.low, self.high)
        z = torch.where(outside, again, z)
        p = torch.where(outside, turned, p)
        return z, p, (_length(z - self.x) <= self.eps * (1 + 1e-6)).flatten()

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        return z.new_zeros(len(z)), None

    def widths(self, slope: Tensor) -> Tensor:
        """The radius, alike for all pixels: a mirror that is a sphere needs momenta of one mass."""
        return torch.full_like(slope[:, :1, :1, :1], self.eps)


class Gaussian:
    """Normal with standard deviation sigma a pixel, not cut by the pixel box (as in the thesis)."""

    reach = math.pi / 2  # a quarter turn makes the position independent of where it was

    def __init__(self, x: Tensor, sigma: float) -> None:
        self.x = x
        self.sigma = sigma

    def draw(self, noise: Noise) -> Tensor:
        return self.x + self.sigma * noise.normal(*self.x.shape[1:])

    def flight(self, z: Tensor, p: Tensor, way: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return z + way * p, p, torch.ones(len(z), dtype=torch.bool, device=z.device)

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        offset = (z - self.x) / self.sigma
        return -offset.square().flatten(1).sum(1) / 2, -offset / self.sigma

    def widths(self, slope: Tensor) -> Tensor:
        return torch.full_like(slope[:, :1, :1, :1], self.sigma)


def fold(z: Tensor, p: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where a straight flight that would end at ``z`` ends between the mirrors ``low`` and ``high``, and its momentum.

    Each coordinate by itself, any number of reflections at once; ``z`` in the interval stays bit for bit.
    """
    width = high - low
    turns = torch.floor((z - low) / width.clamp(min=1e-30))
    odd = turns.remainder(2) == 1
    inside = torch.where(odd, low + (turns + 1) * width - (z - low), z - turns * width)
    return torch.minimum(torch.maximum(inside, low), high), torch.where(odd, -p, p)


def _length(z: Tensor) -> Tensor:
    return z.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
