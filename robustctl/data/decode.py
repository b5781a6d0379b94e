"""Encoded images (PNG, JPEG, WebP, TIFF, ...) to pixels, in threads."""

import io
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustctl.data import on_disk
from robustctl.errors import RequestError

MODES = {"1": "L", "L": "L", "LA": "L", "RGB": "RGB", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB"}
MODES |= {"CMYK": "RGB", "YCbCr": "RGB"}
NOT_READ = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MCIDAS", "MPEG", "WMF"}
"""Formats of Pillow that are no pictures of 8 bits, or that it gives to other programs."""
MAX_PIXELS = 64_000_000
"""The largest image of ImageNet has less than half of it; a file of a few bytes can claim far more."""
CHUNK = 512  # small images a task: large enough that handing out tasks costs nothing
FEW = 4  # photographs a task


class Encoded(Protocol):
    """The bytes of one encoded image per position: a list of them, or files from which they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> bytes: ...


@cache
def formats() -> tuple[str, ...]:
    """The image formats that are read: all that Pillow has but ``NOT_READ``."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NOT_READ))


@cache
def suffixes() -> frozenset[str]:
    """The endings of file names, ``.png`` and so on, of ``formats``."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats())


def decode(encoded: Encoded, name_of: Callable[[int], str]) -> Tensor:
    """Decode images of one size.

    Args:
        name_of: what to call image i in a message.

    Returns:
        uint8 (n, c, h, w); c is 1 if all images are grey, else 3.

    Raises:
        RequestError: an image that cannot be decoded, is not of 8-bit grey or colour, or differs in size.
    """

    def image(i: int) -> Image.Image:
        one = open_image(encoded[i], name_of(i))
        if (one.height, one.width) != (height, width):
            size = f"{one.height}x{one.width}"
            raise RequestError(f"{name_of(i)} is {size}, but {name_of(0)} is {height}x{width}; sizes must be equal")
        if channels == 1 and one.mode != "L":
            raise _ColourError
        return one if channels == 1 or one.mode == "RGB" else one.convert("RGB")

    first = open_image(encoded[0], name_of(0))
    height, width = first.height, first.width
    channels = 1 if first.mode == "L" else 3
    try:
        return gather(len(encoded), (channels, height, width), image, a_task=CHUNK)
    except _ColourError:
        channels = 3
        return gather(len(encoded), (channels, height, width), image, a_task=CHUNK)


class _ColourError(Exception):
    """An image has colours, and the ones before it had none."""


def gather(
    n: int,
    shape: tuple[int, int, int],
    image_of: Callable[[int], Image.Image],
    pool: Executor | None = None,
    a_task: int = FEW,
) -> Tensor:
    """Pixels uint8 (n, c, h, w) of images that all have ``shape`` (c, h, w).

    Args:
        image_of: the i-th image, of mode L or RGB as ``shape`` has 1 or 3 channels; called in threads.
        pool: the threads, or None for some of its own.
        a_task: images that a thread decodes in a row.
    """
    pixels = on_disk.empty((n, *shape))

    def fill(start: int) -> None:
        for i in range(start, min(start + a_task, n)):
            pixels[i] = _array(image_of(i)).transpose(2, 0, 1)

    own: AbstractContextManager[Executor] = nullcontext(pool) if pool else ThreadPoolExecutor(threads())
    with own as executor:
        for _ in executor.map(fill, range(0, n, a_task)):
            on_disk.release(pixels)
    return torch.from_numpy(pixels)


def threads() -> int:
    """How many threads decode: one a core, shared between the processes of ``torchrun`` on this machine."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def open_image(encoded: bytes, name: str, *, colour: bool = False) -> Image.Image:
    """Decode one image to mode L or RGB.

    Args:
        name: what to call it in a message.
        colour: give grey images three equal channels.

    Raises:
        RequestError: it cannot be decoded, is not of 8-bit grey or colour, or is larger than ``MAX_PIXELS``.
    """
    try:
        image = _identified(encoded)
        mode = "RGB" if colour else MODES[image.mode]
        image.load()
        return image if image.mode == mode else image.convert(mode)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise _undecodable(name, error) from None


def as_grey(image: Image.Image) -> Image.Image | None:
    """An image of mode L or RGB as grey; None if it has colours."""
    if image.mode == "L":
        return image
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else None


def size_of(encoded: bytes, name: str) -> tuple[int, int, int]:
    """(channels, height, width) from the image's first bytes; raises RequestError as ``open_image``."""
    try:
        image = _identified(encoded)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise _undecodable(name, error) from None
    return (1 if MODES[image.mode] == "L" else 3), image.height, image.width


def _identified(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded), formats=formats())
    if image.mode not in MODES:
        raise ValueError(f"its mode is {image.mode}; 8-bit grey or RGB is needed")
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read")
    return image


def _undecodable(name: str, error: Exception) -> RequestError:
    reason = "it is in no image format that is read" if isinstance(error, UnidentifiedImageError) else error
    return RequestError(f"cannot decode {name}: {reason}")


def _array(image: Image.Image) -> np.ndarray:
    """(h, w, 1) or (h, w, 3) uint8."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
