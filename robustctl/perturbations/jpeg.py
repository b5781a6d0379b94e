"""The effect of a change of JPEG's quantised coefficients on an image (ITU T.81, annexes A and K), for two kinds."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.perturbations.boxed import Boxed

LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMINANCE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"
)
"""Steps of quantisation at quality 50, row by row (T.81, tables K.1 and K.2)."""
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
"""From brightness and two colour differences to red, green and blue (T.871)."""


class Jpeg(Boxed):
    """A kind whose parameters change each coefficient, in its step of quantisation at quality 50."""

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The same for each coefficient: at most the budget."""
        high = x.new_full((count(tuple(x.shape[1:])),), budget)
        return -high, high

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Add what the change of the coefficients does to the pixels."""
        return (x + change(z, tuple(x.shape[1:]))).clamp(0, 1)


def sizes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns of the coefficients of each plane of an image (c, h, w): colour is stored at half the size."""
    channels, height, width = shape
    step = 16 if channels == 3 else 8
    rows, columns = (math.ceil(side / step) * step for side in (height, width))
    return [(rows, columns), *[(rows // 2, columns // 2)] * 2] if channels == 3 else [(rows, columns)] * channels


def count(shape: tuple[int, ...]) -> int:
    """Coefficients of an image."""
    return sum(rows * columns for rows, columns in sizes(shape))


def change(z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The change of pixels (n, c, h, w), in [0,1] a white, for a change z (n, k) of the coefficients in their steps."""
    channels, height, width = shape
    planes, first = [], 0
    for plane, (rows, columns) in enumerate(sizes(shape)):
        part = z[:, first : first + rows * columns].view(len(z), rows, columns)
        table = LUMINANCE if plane == 0 or channels != 3 else CHROMINANCE
        pixels = _inverse(part, z.new_tensor([float(step) for step in table.split()]).view(8, 8))[:, None]
        planes.append(pixels if plane == 0 or channels != 3 else F.interpolate(pixels, scale_factor=2, mode="nearest"))
        first += rows * columns
    planes = [plane[:, :, :height, :width] for plane in planes]
    whole = torch.cat(planes, dim=1) / 255
    return torch.einsum("rp,nphw->nrhw", z.new_tensor(TO_RGB), whole) if channels == 3 else whole


def _inverse(coefficients: Tensor, steps: Tensor) -> Tensor:
    """Inverse cosine transform of each 8x8 block, in 255ths."""
    n, rows, columns = coefficients.shape
    blocks = coefficients.view(n, rows // 8, 8, columns // 8, 8).transpose(2, 3) * steps
    k = torch.arange(8, dtype=steps.dtype, device=steps.device)
    basis = (math.pi / 8 * k[:, None] * (k + 0.5)).cos() / 2
    basis[0] /= math.sqrt(2)
    return (basis.T @ blocks @ basis).transpose(2, 3).reshape(n, rows, columns)
