"""Random changes of whole batches: crops, flips, cutout, mixup."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustctl.devices import upload


def random_crop(x: Tensor, pad: int, generator: Generator) -> Tensor:
    """Pad by ``pad`` black pixels on each side and cut a window of the old size at a random place, one per image.

    Args:
        x: images (n, c, h, w), uint8 or float.
    """
    n, channels, height, width = x.shape
    offsets = upload(torch.randint(2 * pad + 1, (2, n), generator=generator, device=generator.device), x.device)
    rows = offsets[0, :, None] + torch.arange(height, device=x.device)  # (n, h)
    columns = offsets[1, :, None] + torch.arange(width, device=x.device)  # (n, w)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return F.pad(x, (pad, pad, pad, pad))[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirror each image (n, c, h, w) left to right with probability one half."""
    chosen = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
    return torch.where(upload(chosen, x.device)[:, None, None, None], x.flip(3), x)


def cutout(x: Tensor, side: int, generator: Generator) -> Tensor:
    """Blank a square of ``side`` pixels around a random place of each image, cut at the border (arXiv:1708.04552)."""
    n, _, height, width = x.shape
    top, left = (upload(torch.randint(size, (n, 1), generator=generator), x.device) for size in (height, width))
    rows, columns = torch.arange(height, device=x.device) - top, torch.arange(width, device=x.device) - left
    low, high = -(side // 2), side - side // 2
    inside_rows, inside_columns = (rows >= low) & (rows < high), (columns >= low) & (columns < high)
    return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def mixup(x: Tensor, y: Tensor, n_classes: int, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with another of the batch, by one weight ~ Beta(alpha, alpha) (arXiv:1710.09412)."""
    # A quotient of two gamma variables; torch's Beta takes no generator.
    first, second = (_gamma(alpha, generator) for _ in range(2))
    weight = first / (first + second)
    partner = upload(torch.randperm(len(y), generator=generator), x.device)
    soft = F.one_hot(y, n_classes).to(x.dtype)
    return torch.lerp(x[partner], x, weight), torch.lerp(soft[partner], soft, weight)


def _gamma(alpha: float, generator: Generator) -> float:
    """One Gamma(alpha, 1) variable (Marsaglia and Tsang 2000), from a generator."""
    boost = 1.0
    if alpha < 1:
        boost = float(torch.rand((), generator=generator, dtype=torch.float64)) ** (1 / alpha)
        alpha += 1
    d = alpha - 1 / 3
    while True:
        z = float(torch.randn((), generator=generator, dtype=torch.float64))
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        v = (1 + z / (9 * d) ** 0.5) ** 3
        if v > 0 and u < 1 - 0.0331 * z**4:
            return float(boost * d * v)
