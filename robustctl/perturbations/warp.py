"""Images resampled along a field of displacements in pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(x: Tensor, right: Tensor, down: Tensor, *, border: str = "border") -> Tensor:
    """Pixel (i, j) of the result is x at (i + down, j + right), bilinear.

    Args:
        x: images (n, c, h, w). right, down: (n, h, w), in pixels.
        border: ``border`` repeats the edge, ``zeros`` is black outside.
    """
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] + down
    columns = torch.arange(width, dtype=x.dtype, device=x.device) + right
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=3)
    return F.grid_sample(x, grid, padding_mode=border, align_corners=False).clamp(0, 1)
