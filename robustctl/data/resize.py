"""Images of any size to squares of one size: the centre, or a random part of the image.

Both are what ImageNet models are trained and evaluated with; the parameters are torchvision's.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from robustctl.data.decode import MAX_PIXELS
from robustctl.spec import Resize

TRIES = 10
RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop, uniform on the log scale."""
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def centre(image: Image.Image, resize: Resize, side: int) -> Image.Image:
    """Resize as ``resize`` says and cut out the centre of ``side`` x ``side`` pixels.

    Raises:
        ValueError: the resized image would be larger than ``MAX_PIXELS``.
    """
    width, height = image.size
    shorter = min(width, height)
    if resize.side and resize.side != shorter:
        width, height = (resize.side * length // shorter for length in (width, height))
        if width * height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too long and thin to be resized")
        image = image.resize((width, height), FILTERS[resize.interpolation])
    left, top = _margin(width, side), _margin(height, side)
    return image.crop((left, top, left + side, top + side))


def _margin(length: int, side: int) -> int:
    return round((length - side) / 2) if length >= side else -((side - length) // 2)


def crop_draws(n: int, generator: torch.Generator) -> Tensor:
    """What the random crops of ``n`` images are made of, whatever their sizes: (n, TRIES, 4) in [0,1)."""
    return torch.rand((n, TRIES, 4), generator=generator, dtype=torch.float64, device=generator.device)


def crop_box(draws: Sequence[Sequence[float]], width: int, height: int, least: float) -> Box:
    """A random part of an image: an area of ``least`` to 1 of the whole, and a ratio of sides in ``RATIO``.

    Args:
        draws: of one image, (TRIES, 4). The first try that fits is taken; if none does, the largest part in the middle
            whose ratio is allowed.
    """
    low, high = map(math.log, RATIO)
    for area_draw, ratio_draw, top_draw, left_draw in draws:
        area = (least + (1 - least) * area_draw) * width * height
        ratio = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_part(image: Image.Image, draws: Tensor, least: float, side: int) -> Image.Image:
    """The part of ``crop_box``, resized (bilinear) to ``side`` x ``side`` pixels."""
    box = crop_box(draws.tolist(), image.width, image.height, least)
    return image.crop(box).resize((side, side), FILTERS["bilinear"])


def random_parts(x: Tensor, draws: Tensor, least: float, side: int) -> Tensor:
    """``random_part`` of images in memory, (n, c, h, w) to (n, c, side, side) of the same type.

    Equal to it but for the rounding of 8-bit pixels.
    """
    parts = []
    for image, of_image in zip(x, draws.tolist(), strict=True):
        left, top, right, bottom = crop_box(of_image, x.shape[3], x.shape[2], least)
        part = image[None, :, top:bottom, left:right].float()
        parts.append(F.interpolate(part, (side, side), mode="bilinear", antialias=True))
    out = torch.cat(parts)
    return out.round_().to(torch.uint8) if x.dtype == torch.uint8 else out.clamp_(0, 1)
