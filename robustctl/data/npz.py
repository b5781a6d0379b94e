"""An ``.npz`` file with ``x`` (n, c, h, w), uint8 or float32 in [0,1], and ``y`` (n,). It has no splits."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustctl.data.image_data import count, labels
from robustctl.errors import RequestError


def read(path: Path, n: int | None) -> tuple[Tensor, Tensor, int]:
    """Read the first ``n`` images: x uint8 or float32 (n, c, h, w), y int64 (n,), largest label plus one.

    Raises:
        RequestError: not an npz file, or x and y missing, of a wrong type, shape or range, or more than there are.
    """
    if not zipfile.is_zipfile(path):
        raise RequestError(f"cannot read {path} as .npz: it is not the zip file that numpy.savez writes")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays]
            if missing:
                raise RequestError(f"{path} has no array {missing[0]!r}; its arrays: {', '.join(arrays) or 'none'}")
            x, y = arrays["x"], arrays["y"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise RequestError(f"cannot read {path} as .npz: {error}") from None
    _check(path, x, y)
    taken = count(n, len(y), str(path))
    n_classes = int(y.max()) + 1
    return torch.from_numpy(x[:taken]), labels(y, n_classes, str(path))[:taken], n_classes


def _check(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    if x.dtype not in (np.uint8, np.float32) or x.ndim != 4:
        raise RequestError(f"{path}: x is {x.dtype} {list(x.shape)}; it must be uint8 or float32 (n, c, h, w)")
    if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
        raise RequestError(f"{path}: y is {y.dtype} {list(y.shape)}; it must be whole numbers ({len(x)},)")
    if x.dtype == np.float32 and not ((x >= 0) & (x <= 1)).all():
        low, high = x.min(), x.max()
        raise RequestError(f"{path}: x reaches from {low:g} to {high:g}; float32 pixels must be within [0,1]")
