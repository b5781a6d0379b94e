"""Adversarial snow (Kang et al., arXiv:1908.08016): flakes on a grid, whose brightness is chosen by the attack."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.perturbations.base import TOLERANCE, Task
from robustctl.perturbations.boxed import Boxed

PLACES = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0))
"""Row and column of each of the seven kinds of flakes within a cell of 4x4 pixels."""
CELL, REACH = 4, 6
BUDGET, BLOCK = 0.2, 8
"""Mean brightness of a kind of flakes in each block of 8x8 cells, at most."""
DISCOLOUR = 0.25
"""The most by which snow makes the image greyer and brighter."""


class Snow(Boxed):
    """Parameters: strength, at most the budget; of each kind of flakes the half length to the right and down in pixels
    and the width; and the brightness of each flake."""

    unit = "strength"
    highest = 16.0
    usual = "0.5"
    source = "Kang et al., arXiv:1908.08016; budget of E-AT (appendix D) and RAMP (B.3)"

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """Strength, shapes, brightness."""
        rows, columns = _cells(x)
        kinds = len(PLACES)
        low = [0.0] + [-6.0] * kinds + [2.0] * kinds + [0.5] * kinds
        high = [budget] + [6.0] * kinds + [6.0] * kinds + [2.0] * kinds
        flakes = kinds * rows * columns
        return x.new_tensor(low + [0.0] * flakes), x.new_tensor(high + [1.0] * flakes)

    def start(self, task: Task) -> Tensor:
        """Random snow of full strength; the brightness of flakes is distributed as in the paper."""
        z = super().start(task)
        z[:, 0] = task.budget
        z[:, 22:] = (-z[:, 22:] / BUDGET).exp()
        return self.project(z, task.x, task.budget)

    def project(self, z: Tensor, x: Tensor, budget: float) -> Tensor:
        """Clamp, then darken the blocks that are too bright."""
        z = super().project(z, x, budget)
        flakes = z[:, 22:].view(len(z), len(PLACES), *_cells(x))
        means = _block_means(flakes)
        factor = (BUDGET / means.clamp(min=BUDGET)) * torch.where(means > BUDGET, 1 - 1e-6, 1.0)
        return torch.cat([z[:, :22], (flakes * _spread(factor, flakes)).flatten(1)], dim=1)

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Every parameter is in its interval, and no block is too bright."""
        means = _block_means(z[:, 22:].view(len(z), len(PLACES), *_cells(x)))
        return super().inside(x, z, budget, model) & (means <= BUDGET * (1 + TOLERANCE)).flatten(1).all(dim=1)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Grey and brighten the image, and add the flakes."""
        strength = z[:, :1, None, None]
        snow = _snow(x, z)
        grey = x.mean(dim=1, keepdim=True) if x.shape[1] != 3 else _grey(x)
        white = torch.maximum(x, grey * 1.5 + 0.5)
        share = (strength / 2).clamp(max=DISCOLOUR)
        return ((1 - share) * x + share * white + strength * snow).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1, keepdim=True)


def _cells(x: Tensor) -> tuple[int, int]:
    return -(-x.shape[2] // CELL), -(-x.shape[3] // CELL)


def _block_means(flakes: Tensor) -> Tensor:
    return F.avg_pool2d(flakes, BLOCK, ceil_mode=True, count_include_pad=False)


def _spread(blocks: Tensor, flakes: Tensor) -> Tensor:
    rows, columns = flakes.shape[2:]
    return blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[:, :, :rows, :columns]


def _snow(x: Tensor, z: Tensor) -> Tensor:
    """The flakes (n, 1, h, w): each a short soft line."""
    n, (height, width), (rows, columns) = len(z), x.shape[2:], _cells(x)
    brightness = z[:, 22:].view(n, len(PLACES), rows, columns) ** 4
    layers = []
    for kind, (down, right) in enumerate(PLACES):
        spread = x.new_zeros(n, rows, CELL, columns, CELL)
        spread[:, :, down, :, right] = brightness[:, kind]
        layers.append(spread.view(n, rows * CELL, columns * CELL)[:, :height, :width])
    grids = torch.stack(layers, dim=1).reshape(1, n * len(PLACES), height, width)
    lines = _lines(z[:, 1:8], z[:, 8:15], z[:, 15:22])
    return F.conv2d(grids, lines, padding=REACH, groups=n).view(n, 1, height, width)


def _lines(right: Tensor, down: Tensor, width: Tensor) -> Tensor:
    """Kernels (n, 7, 13, 13): 1 on the line from -(right, down) to (right, down), falling off with the width."""
    places = torch.arange(-REACH, REACH + 1, dtype=right.dtype, device=right.device)
    across, along = places[None, :], places[:, None]
    right, down, width = (part[:, :, None, None] for part in (right, down, width))
    share = ((across * right + along * down) / (right**2 + down**2)).clamp(-1, 1)
    square = (across - share * right) ** 2 + (along - share * down) ** 2
    return (-square / (width / 2) ** 2).exp()


KIND = Snow()
