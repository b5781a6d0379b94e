"""Pixels that are in [0,1] and yet are not what they seem: scaled twice, rounded to 0 and 1, inverted, too dark.

Such images give an accuracy like any other, so that only their values can betray them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustctl.conventions import KNOWN
from robustctl.data.image_data import ImageData, extremes, parts, to_float

DARK = 0.1
"""Below, no image of the whole data reaches a tenth of the scale."""
FAR = 0.08
"""Beside ``SIGMAS`` standard errors, a difference of mean brightness that no choice among the images explains."""
SIGMAS = 6


@dataclass(frozen=True)
class Suspicion:
    """Something about the pixels.

    Attributes:
        text: what is seen, and its likely cause.
        certain: no images of any data set look so; else some might.
    """

    text: str
    certain: bool


def suspicions(data: ImageData, dataset: str) -> list[Suspicion]:
    """The properties of the images that images do not have, the surest first.

    Args:
        dataset: the data set of the model, whose brightness may be known.
    """
    low, high = extremes(data.x)
    whole = 255 if data.x.dtype == torch.uint8 else 1
    found = _range(low, high, whole, data.x)
    return found or _brightness(data, dataset)


def _range(low: float, high: float, whole: int, x: Tensor) -> list[Suspicion]:
    shown = f"pixels reach from {low:g} to {high:g} of {whole}"
    if low == high:
        return [Suspicion(f"all pixels are {high:g}: the images are empty", certain=True)]
    if whole == 255 and high <= 1:
        return [Suspicion(f"{shown}: they were floats in [0,1] that were cut to whole numbers; multiply by 255", True)]
    if whole == 1 and high <= 1.5 / 255:
        return [Suspicion(f"{shown}: they were divided by 255 twice", certain=True)]
    if _two_levels(x, low, high):
        return [Suspicion(f"every pixel is {low:g} or {high:g}: they were rounded or binarised", certain=False)]
    if high < DARK * whole:
        return [Suspicion(f"{shown}: they may have been scaled down twice", certain=False)]
    return []


def _two_levels(x: Tensor, low: float, high: float) -> bool:
    return all(bool(((part == low) | (part == high)).all()) for part in parts(x))


def _brightness(data: ImageData, dataset: str) -> list[Suspicion]:
    known = KNOWN.get(dataset)
    if known is None or len(data) < 2:
        return []
    means = torch.cat([to_float(part).mean(dim=(1, 2, 3)) for part in parts(data.x)]).double()
    mean = float(means.mean())
    allowed = FAR + SIGMAS * float(means.std()) / len(means) ** 0.5
    if abs(mean - known.brightness) <= allowed:
        return []
    text = f"mean brightness is {mean:.3f}, images of {dataset} have {known.brightness:.3f}: "
    inverted = abs(1 - mean - known.brightness) <= allowed
    cause = "they are inverted (black on white)" if inverted else "other images, or pixels on another scale"
    return [Suspicion(text + cause, certain=False)]
