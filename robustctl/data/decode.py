"""PNG and JPEG bytes to pixels, in threads."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustctl.errors import RequestError

MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "RGBA": "RGB"}
CHUNK = 512  # images a task: large enough that handing out tasks costs nothing


def decode(encoded: Sequence[bytes], name_of: Callable[[int], str]) -> Tensor:
    """Decode images of one size.

    Args:
        encoded: PNG or JPEG bytes, one an image.
        name_of: what to call image i in a message.

    Returns:
        uint8 (n, c, h, w); c is 1 where all images are grey, else 3.

    Raises:
        RequestError: an image that cannot be decoded, is not of 8-bit grey or colour, or differs in size.
    """

    def pixels(start: int) -> list[np.ndarray]:
        return [_pixels(encoded[i], name_of, i) for i in range(start, min(start + CHUNK, len(encoded)))]

    with ThreadPoolExecutor() as pool:
        images = list(chain.from_iterable(pool.map(pixels, range(0, len(encoded), CHUNK))))
    height, width = images[0].shape[:2]
    for i, image in enumerate(images):
        if image.shape[:2] != (height, width):
            size = f"{image.shape[0]}x{image.shape[1]}"
            raise RequestError(f"{name_of(i)} is {size}, but {name_of(0)} is {height}x{width}; sizes must be equal")
    channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (height, width, channels)) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _pixels(encoded: bytes, name_of: Callable[[int], str], i: int) -> np.ndarray:
    """(h, w, 1) or (h, w, 3) uint8."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
        mode = MODES.get(image.mode)
        if mode is None:
            raise ValueError(f"its mode is {image.mode}; 8-bit grey or RGB is needed")
        array = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        reason = "it is neither PNG nor JPEG" if isinstance(error, UnidentifiedImageError) else error
        raise RequestError(f"cannot decode {name_of(i)}: {reason}") from None
    return array[:, :, None] if mode == "L" else array
