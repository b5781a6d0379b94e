"""Rotations and translations (Engstrom et al., arXiv:1712.02779), searched on the whole grid of the paper."""

import itertools
import math

import torch
from torch import Tensor, nn

from robustctl.perturbations.base import Effort, Family, Kind, Task, at_most
from robustctl.perturbations.boxed import margins_of
from robustctl.perturbations.warp import warp

ANGLES, SHIFTS = 31, 5
"""Steps of the grid: 31 angles, 5 shifts along each axis, 775 images (arXiv:1712.02779, Sec. 4)."""
SHARE = 1 / 300
"""The share of its side that the image may be shifted by, per degree: a tenth at 30 degrees, as in the paper."""


class RotationTranslation(Kind):
    """Parameters: degrees, shift to the right and down in pixels."""

    unit = "degrees; shifts are up to 1/300 of the side a degree"
    highest = 180.0
    usual = "30"
    usual_digits = "10"
    source = "Engstrom et al., arXiv:1712.02779 (30 degrees, a tenth of the side)"

    def families(self) -> dict[str, Family]:
        """Every point of the grid; a point that breaks none of them is robust on the grid, not between its points."""
        return {"grid": Family(self._grid, self._cost, False)}

    def _cost(self, effort: Effort) -> float:
        return ANGLES * SHIFTS**2 / 2

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Rotate around the middle and shift; black outside."""
        height, width = x.shape[2:]
        angle, right, down = (z[:, i, None, None] for i in range(3))
        cos, sin = (angle * math.pi / 180).cos(), (angle * math.pi / 180).sin()
        rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] - (height - 1) / 2
        columns = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
        moved_right = cos * columns - sin * rows - columns + right
        moved_down = sin * columns + cos * rows - rows + down
        return warp(x, moved_right, moved_down, border="zeros")

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Angle and shifts are within their ranges."""
        height, width = x.shape[2:]
        angle, right, down = z.abs().unbind(dim=1)
        most = budget * SHARE
        return at_most(angle, budget) & at_most(right, most * width) & at_most(down, most * height)

    def _grid(self, task: Task) -> Tensor:
        height, width = task.x.shape[2:]
        ends = (task.budget, task.budget * SHARE * width, task.budget * SHARE * height)
        axes = [torch.linspace(-end, end, n).tolist() for end, n in zip(ends, (ANGLES, SHIFTS, SHIFTS), strict=True)]
        best = torch.zeros(len(task.x), 3, dtype=task.x.dtype, device=task.x.device)
        margins = margins_of(self, task, best)
        for point in itertools.product(*axes):
            alive = (margins <= 0).nonzero().squeeze(1)
            if not len(alive):
                break
            z = best.new_tensor(point).expand(len(alive), 3)
            found = margins_of(self, task.rows(alive), z)
            better = found > margins[alive]
            best[alive[better]], margins[alive[better]] = z[better], found[better]
        return best


KIND = RotationTranslation()
