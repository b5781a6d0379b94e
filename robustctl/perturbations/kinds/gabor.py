"""Adversarial Gabor noise (Kang et al., arXiv:1908.08016): sparse impulses, spread by a Gabor kernel."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.perturbations.base import Task, uniform
from robustctl.perturbations.boxed import Boxed

KERNEL = 23
SPARSE = 14
"""One impulse for each so many pixels, at most."""
SIDES = 10
"""Directions of the kernel, at most."""
SHAPE = 5
"""Parameters before the impulses: strength, width, frequency, angle, directions."""
TINY = 1e-12


class Gabor(Boxed):
    """Parameters: strength, at most the budget; the kernel's width, frequency, angle and number of directions; and the
    impulses in [-1,1]; only a few are not 0."""

    unit = "255ths of strength"
    highest = 2048.0
    usual = "60"
    source = "Kang et al., arXiv:1908.08016; budget of E-AT (appendix D) and RAMP (B.3)"

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """Strength, kernel, impulses."""
        impulses = x.shape[2] * x.shape[3]
        low = [0.0, 0.1, 3.0, 0.0, 1.0] + [-1.0] * impulses
        high = [budget, 0.4, KERNEL / 4, math.pi, float(SIDES)] + [1.0] * impulses
        return x.new_tensor(low), x.new_tensor(high)

    def start(self, task: Task) -> Tensor:
        """A random kernel of full strength and random impulses at random places."""
        z = super().start(task)
        z[:, 0] = task.budget
        z[:, 4] = z[:, 4].floor()
        impulses = z[:, SHAPE:]
        ranks = uniform(task.generators, impulses.shape[1], z)
        chosen = ranks <= ranks.kthvalue(_most(task.x), dim=1, keepdim=True).values
        return torch.cat([z[:, :SHAPE], impulses * chosen], dim=1)

    def movable(self, z: Tensor) -> Tensor:
        """All but the number of directions; impulses change only if there are any."""
        free = (z != 0).to(z)
        free[:, :SHAPE], free[:, 4] = 1, 0
        return free

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Every parameter is in its interval, and impulses are few."""
        return super().inside(x, z, budget, model) & ((z[:, SHAPE:] != 0).sum(dim=1) <= _most(x))

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Add the noise, scaled to [0,1], to every channel alike."""
        n, _, height, width = x.shape
        impulses = z[:, SHAPE:].view(1, n, height, width)
        noise = F.conv2d(impulses, _kernels(z)[:, None], padding=KERNEL // 2, groups=n).view(n, 1, height, width)
        low, high = noise.amin(dim=(2, 3), keepdim=True), noise.amax(dim=(2, 3), keepdim=True)
        noise = (noise - low) / (high - low).clamp(min=TINY)
        return (x + z[:, :1, None, None] / 255 * noise).clamp(0, 1)


def _most(x: Tensor) -> int:
    return max(x.shape[2] * x.shape[3] // SPARSE, 1)


def _kernels(z: Tensor) -> Tensor:
    """Gabor kernels (n, 23, 23), summed over their directions."""
    width, frequency, angle, sides = (z[:, i, None, None] for i in range(1, SHAPE))
    places = torch.linspace(-0.5, 0.5, KERNEL, dtype=z.dtype, device=z.device)
    bell = (-0.5 * (places[:, None] ** 2 + places**2) / width**2).exp()
    total = torch.zeros_like(bell)
    for side in range(SIDES):
        turned = angle + math.pi * side / sides
        wave = (2 * math.pi * frequency * (places * turned.cos() + places[:, None] * turned.sin())).cos()
        total = total + bell * wave * (side < sides)
    return total


KIND = Gabor()
