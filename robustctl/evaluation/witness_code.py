"""Packs adversarial images losslessly, beside the images that they were made from.

A difference is not x_adv - x, which float32 rounds: it is the distance, in float32 bit patterns, from the nearest of
three images that follow from x alone (x, and x with all pixels moved up or down by eps and cut to the box). So x_adv
comes back bit by bit. Pixels at the edge of a ball and pixels that were not touched have the distance 0, and take a
part of a bit each.
"""

import lzma
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustctl.threats import Threat

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 16 << 20
"""Unpacked size of a chunk at most, which is all that is in memory at once."""
MEMORY_BYTES = 256 << 20
"""The memory that unpacking a chunk may take, so that a small file cannot fill it."""
PLANES = 5
"""Bytes of a value before they are packed, at most: its symbol, and the four of its distance if that is not 0."""
NEARBY = 3
"""Images that distances are taken from; a symbol is the number of one, and 3 more if the distance is not 0."""
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0, "dict_size": CHUNK_BYTES}]


def pack(x_adv: Tensor, x: Tensor, threat: Threat) -> bytes:
    """Pack float32 images losslessly beside the images x of the same shape (n, c, h, w) that they were made from."""
    wanted = _bits(_channels_last(x_adv))
    near = [_bits(image) for image in _nearby(_channels_last(x), threat)]
    differences = np.stack([(wanted - one).view(np.int32) for one in near])
    chosen = np.abs(differences.astype(np.int64)).argmin(axis=0)
    left = np.take_along_axis(differences, chosen[None], axis=0)[0]
    folded = ((left << 1) ^ (left >> 31)).view(np.uint32)  # small numbers of both signs
    moved = folded != 0
    symbols = (chosen + NEARBY * moved).astype(np.uint8)
    planes = folded[moved].view(np.uint8).reshape(-1, 4).T
    return lzma.compress(symbols.tobytes() + planes.tobytes(), filters=FILTERS)


def unpack(packed: bytes, x: Tensor, threat: Threat) -> Tensor:
    """The images that ``pack`` packed beside the same x, bit for bit.

    Raises:
        ValueError, LZMAError: these bytes are not of so many images.
    """
    n = x.numel()
    content = _inflated(packed, PLANES * n)
    symbols = np.frombuffer(content[:n], np.uint8)
    moved = symbols >= NEARBY
    if len(content) != n + 4 * int(moved.sum()):
        raise ValueError(f"it holds {len(content)} bytes instead of {n + 4 * int(moved.sum())}")
    folded = np.zeros(n, np.uint32)
    folded[moved] = _joined(np.frombuffer(content[n:], np.uint8))
    images, channels, height, width = x.shape
    pixels = _moved(_channels_last(x), symbols - NEARBY * moved, folded, threat)
    return pixels.reshape(images, height, width, channels).permute(0, 3, 1, 2).contiguous()


def unpack_earlier(packed: bytes, x: Tensor, threat: Threat) -> Tensor:
    """The images of a file that an earlier version wrote: five whole planes, channels first; errors as ``unpack``."""
    size = PLANES * x.numel()
    content = np.frombuffer(_inflated(packed, size), np.uint8)
    if len(content) != size:
        raise ValueError(f"it holds {len(content)} bytes instead of {size}")
    return _moved(x, content[: x.numel()], _joined(content[x.numel() :]), threat).reshape(x.shape)


def _inflated(packed: bytes, most: int) -> bytes:
    """The bytes that were compressed; ValueError for more than ``most``, LZMAError for none of ours."""
    reader = lzma.LZMADecompressor(memlimit=MEMORY_BYTES)
    content = reader.decompress(packed, max_length=most + 1)
    if len(content) > most or not reader.eof:
        raise ValueError(f"it is cut off, or holds more than {most} bytes")
    return content


def _joined(planes: Array) -> Array:
    """Numbers (m,) uint32 from 4 m bytes: all lowest ones first."""
    found: Array = np.ascontiguousarray(planes.reshape(4, -1).T).view(np.uint32)[:, 0]
    return found


def _moved(x: Tensor, chosen: Array, folded: Array, threat: Threat) -> Tensor:
    """The values (n,) at a distance from the chosen image near x; ValueError for an image that there is not."""
    if chosen.max(initial=0) >= NEARBY:
        raise ValueError("it names an image that there is not")
    left = (folded >> 1) ^ (-(folded & 1).astype(np.int64)).astype(np.uint32)
    near = np.stack([_bits(image) for image in _nearby(x, threat)])
    bits = np.take_along_axis(near, chosen[None].astype(np.int64), axis=0)[0] + left
    return torch.from_numpy(bits.view(np.float32))


def images_per_chunk(shape: Sequence[int]) -> int:
    """Images of (c, h, w) in a chunk."""
    return max(CHUNK_BYTES // (PLANES * int(np.prod(shape))), 1)


def _channels_last(image: Tensor) -> Tensor:
    """The colours of a pixel beside each other, which are often moved alike."""
    return image.permute(0, 2, 3, 1)


def _nearby(x: Tensor, threat: Threat) -> list[Array]:
    """x, and x moved up and down by eps within the box: single float32 operations, which are the same everywhere."""
    pixels, eps = x.contiguous().numpy(), np.float32(threat.eps)
    return [pixels, np.minimum(pixels + eps, np.float32(1)), np.maximum(pixels - eps, np.float32(0))]


def _bits(image: Tensor | Array) -> Array:
    values = image.contiguous().numpy() if isinstance(image, Tensor) else np.ascontiguousarray(image)
    return values.reshape(-1).view(np.uint32)
