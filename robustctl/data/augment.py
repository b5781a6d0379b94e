"""Random crops and flips of whole batches."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def random_crop(x: Tensor, pad: int, generator: Generator) -> Tensor:
    """Pad by ``pad`` black pixels on each side and cut a window of the old size at a random place, one an image.

    Args:
        x: images (n, c, h, w), uint8 or float.
    """
    n, channels, height, width = x.shape
    offsets = torch.randint(2 * pad + 1, (2, n), generator=generator, device=generator.device).to(x.device)
    rows = offsets[0, :, None] + torch.arange(height, device=x.device)  # (n, h)
    columns = offsets[1, :, None] + torch.arange(width, device=x.device)  # (n, w)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return F.pad(x, (pad, pad, pad, pad))[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirror each image (n, c, h, w) left to right with probability one half."""
    chosen = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(3), x)
