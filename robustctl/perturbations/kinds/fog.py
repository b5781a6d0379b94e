"""Adversarial fog (Kang et al., arXiv:1908.08016): a plasma fractal whose random numbers are chosen by the attack."""

import torch
from torch import Tensor

from robustctl.perturbations.base import Task
from robustctl.perturbations.boxed import Boxed

DECAY = 2.0
"""By which the fractal's roughness falls from one level to the next finer one."""
TINY = 1e-12


class Fog(Boxed):
    """Parameters: density, at most the budget; then three numbers in [0,1] for each cell of each level."""

    unit = "255ths of density"
    highest = 65536.0
    usual = "128"
    source = "Kang et al., arXiv:1908.08016; budget of E-AT (appendix D; RAMP prints 12)"

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """Density first."""
        high = x.new_ones(1 + 3 * sum(4**level for level in range(_levels(x))))
        high[0] = budget
        return torch.zeros_like(high), high

    def start(self, task: Task) -> Tensor:
        """Random fog of full density."""
        z = super().start(task)
        z[:, 0] = task.budget
        return z

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Mix fog in, as common corruptions do: the brightest pixel keeps its brightness."""
        height, width = x.shape[2:]
        fog = _fractal(z[:, 1:], _levels(x))[:, None]
        top, left = (fog.shape[2] - height) // 2, (fog.shape[3] - width) // 2
        fog = fog[:, :, top : top + height, left : left + width]
        low, high = fog.amin(dim=(2, 3), keepdim=True), fog.amax(dim=(2, 3), keepdim=True)
        fog = (fog - low) / (high - low).clamp(min=TINY)
        brightest = x.amax(dim=(1, 2, 3), keepdim=True)
        density = z[:, :1, None, None] / 255
        return ((x + density * fog) * brightest / (brightest + density).clamp(min=TINY)).clamp(0, 1)


def _levels(x: Tensor) -> int:
    """Levels of a fractal about twice as large as the image; its middle is used, as in the published code."""
    return int(max(x.shape[2:])).bit_length()


def _fractal(numbers: Tensor, levels: int) -> Tensor:
    """Diamond and square on a torus, (n, 2^levels, 2^levels)."""
    field, wibble, first = numbers.new_zeros(len(numbers), 1, 1), 1.0, 0
    for level in range(levels):
        side = 2**level
        parts = numbers[:, first : first + 3 * side * side].view(-1, 3, side, side)
        squares, across, down = (wibble * (2 * part - 1) for part in parts.unbind(dim=1))
        right, below = field.roll(-1, 2), field.roll(-1, 1)
        squares = squares + (field + right + below + right.roll(-1, 1)) / 4
        across = across + (field + right + squares + squares.roll(1, 1)) / 4
        down = down + (field + below + squares + squares.roll(1, 2)) / 4
        even, odd = torch.stack([field, across], dim=3), torch.stack([down, squares], dim=3)
        field = torch.stack([even.flatten(2), odd.flatten(2)], dim=2).flatten(1, 2)
        wibble, first = wibble / DECAY, first + 3 * side * side
    return field


KIND = Fog()
