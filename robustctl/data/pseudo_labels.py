"""Extra images for training: pseudo-labelled ones, or ones that a generative model has drawn.

The first come in the layout of Carmon et al. 2019 (arXiv:1905.13736), a pickle of two numpy arrays. The others (Gowal
et al. 2021, Wang et al. 2023) come in an ``.npz`` file, which stays on the disk if it is not compressed.

A pickle may hold code. This reader rebuilds numpy arrays and plain containers, and refuses everything else before
anything of it runs.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustctl.data import npz
from robustctl.errors import RequestError

IMAGES, LABELS = "data", "extrapolated_targets"
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not part of an array")
        return super().find_class(module, name)


def read(path: Path, input_shape: tuple[int, int, int], n_classes: int) -> tuple[Tensor, Tensor]:
    """Read x uint8 (n, c, h, w) and y int64 (n,).

    Args:
        path: a pickle of a dict with ``data`` uint8 (n, h, w, c) and ``extrapolated_targets`` (n,), or an ``.npz`` file
            with ``image`` and ``label``, or ``x`` and ``y``.
        input_shape: (channels, height, width) that the images must have.

    Raises:
        RequestError: no such file, code in it, another layout, another shape, or labels outside the classes.
    """
    if not path.is_file():
        raise RequestError(f"extra.path: no file at {path}")
    if zipfile.is_zipfile(path):
        return _of_npz(path, input_shape, n_classes)
    images, labels = _arrays(path)
    channels, height, width = input_shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        raise RequestError(
            f"extra.path {path}: images are {images.dtype} of shape {list(images.shape)}; "
            f"needed is uint8 of shape [n, {height}, {width}, {channels}]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise RequestError(f"extra.path {path}: {len(images)} images need as many whole-number labels")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise RequestError(
            f"extra.path {path}: labels go from {labels.min()} to {labels.max()}, classes to {n_classes - 1}"
        )
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return x, torch.from_numpy(labels.astype(np.int64))


def _of_npz(path: Path, input_shape: tuple[int, int, int], n_classes: int) -> tuple[Tensor, Tensor]:
    found = npz.mapped(path)
    if found.x.dtype != torch.uint8 or tuple(found.x.shape[1:]) != input_shape:
        shape = [*found.x.shape]
        raise RequestError(
            f"extra.path {path}: images are {str(found.x.dtype).removeprefix('torch.')} of shape {shape} (channels "
            f"first); needed is uint8 of shape [n, {', '.join(map(str, input_shape))}]"
        )
    if found.n_classes > n_classes:
        raise RequestError(f"extra.path {path}: labels go to {found.n_classes - 1}, classes to {n_classes - 1}")
    return found.x, found.y


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
        images, labels = content[IMAGES], content[LABELS]
    except Exception as error:  # a damaged pickle raises anything
        raise RequestError(f"extra.path {path} is no file of pseudo-labelled images: {error}") from None
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        raise RequestError(f"extra.path {path}: {IMAGES} must be an array of images (n, h, w, c)")
    return images, np.asarray(labels)


def _latin1(text: str, encoding: str) -> bytes:
    """Do what pickles of arrays use ``_codecs.encode`` for, and nothing else."""
    return text.encode("latin1") if encoding == "latin1" else b""
