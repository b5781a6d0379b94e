"""Images of any size to squares of one size: the centre, or a random part of the image.

ImageNet models are trained and evaluated with both. torchvision resizes and cuts; only the choice of the random part is
our own, because torchvision draws it from the global random state, and here it is a function of the seed and the image.
torchvision is imported inside the functions: it takes a second, which only photographs need.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustctl.data.decode import MAX_PIXELS
from robustctl.spec import Resize

if TYPE_CHECKING:
    from PIL.Image import Image

TRIES = 10
RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop, uniform on the log scale."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def centre(image: "Image", resize: Resize, side: int) -> "Image":
    """Resize as ``resize`` says and cut out the centre of ``side`` x ``side`` pixels.

    Raises:
        ValueError: the resized image would be larger than ``MAX_PIXELS``.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    shorter, longer = sorted(image.size)
    if resize.side:
        if resize.side * (resize.side * longer // shorter) > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too long and thin to be resized")
        image = functional.resize(image, [resize.side], InterpolationMode(resize.interpolation))
    cut: Image = functional.center_crop(image, [side, side])
    return cut


def crop_draws(n: int, generator: torch.Generator) -> Tensor:
    """Random numbers for the crops of ``n`` images of any sizes: (n, TRIES, 4) in [0,1)."""
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


def random_part(image: "Image", draws: Tensor, least: float, side: int) -> "Image":
    """The part of ``crop_box``, resized (bilinear) to ``side`` x ``side`` pixels."""
    from torchvision.transforms.v2 import functional

    left, top, right, bottom = crop_box(draws.tolist(), image.width, image.height, least)
    part: Image = functional.resized_crop(image, top, left, bottom - top, right - left, [side, side])
    return part


def random_parts(x: Tensor, draws: Tensor, least: float, side: int) -> Tensor:
    """``random_part`` of images in memory, (n, c, h, w) to (n, c, side, side) of the same type.

    Equal to it but for the rounding of 8-bit pixels.
    """
    from torchvision.transforms.v2 import functional

    parts = []
    for image, of_image in zip(x, draws.tolist(), strict=True):
        left, top, right, bottom = crop_box(of_image, x.shape[3], x.shape[2], least)
        # In floats also for 8-bit pixels: their own kernel rounds twice, once per axis.
        parts.append(functional.resized_crop(image.float(), top, left, bottom - top, right - left, [side, side]))
    out = torch.stack(parts)
    return out.round_().to(torch.uint8) if x.dtype == torch.uint8 else out.clamp_(0, 1)
