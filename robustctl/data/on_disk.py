"""Pixels that would take too much memory: they lie in a file without a name, which is gone when nobody uses it.

The file is mapped into memory, so that a tensor of it is like any other. Its pages that were read count as memory of
the process until they are let go: whoever goes through such a tensor calls ``release`` now and then.
"""

import math
import mmap
import os
import tempfile
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from robustctl.files import writing
from robustctl.home import home

LARGE = 1 << 30
"""Bytes from which on pixels lie on the disk: 7,134 colour images of 224 pixels a side have so many."""
PIECE = 1 << 26
"""Bytes that are copied at once."""

_MAPPED: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array uint8 of this shape, in memory, or from ``LARGE`` bytes on in a file.

    Raises:
        RunError: no space for the file.
    """
    size = math.prod(shape)
    if size < LARGE:
        return np.empty(shape, np.uint8)
    folder = home()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, and no signal later
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
    pixels = np.frombuffer(mapped, np.uint8).reshape(shape)
    _MAPPED[pixels.ctypes.data] = mapped
    return pixels


def release(x: Tensor | np.ndarray) -> None:
    """Let go the memory that pixels of a file take, the tensor's whole storage; nothing is lost. Others stay."""
    start = x.ctypes.data if isinstance(x, np.ndarray) else x.untyped_storage().data_ptr()
    mapped = _MAPPED.get(start)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def take(x: Tensor, positions: Tensor) -> Tensor:
    """The images (len(positions), c, h, w) at these positions, on the disk where they are large."""
    if x.dtype != torch.uint8 or len(positions) * x[0].nbytes < LARGE:
        return x[positions]
    found = torch.from_numpy(empty((len(positions), *x.shape[1:])))
    step = max(PIECE // x[0].nbytes, 1)
    for start in range(0, len(positions), step):
        found[start : start + step] = x[positions[start : start + step]]
        release(x)
        release(found)
    return found
