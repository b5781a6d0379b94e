"""Labelled images in memory."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustctl.data import on_disk
from robustctl.errors import RequestError
from robustctl.geometry import contiguous
from robustctl.results.result_file import DataInfo, index_sha256

HASHED_AT_ONCE = 256
"""The number of images whose second copy is in memory while they are hashed."""


class Labelled(ABC):
    """The common part of images of one split, decoded or not.

    Attributes:
        y: labels (n,) int64 in 0..n_classes-1.
        n_classes: number of classes of the source, not only of those that occur here.
        source: what the user called it.
        split: ``train``, ``test``, ...; ``all`` if the source has no splits.
        indices: position of each image in the split, (n,) int64.
        class_names: in the order of the labels; None if the source has numbers alone.
        numbered: the source itself says which number a class has; else its classes are numbered by their names.
        notes: what a user must know about the reading, a sentence each.
    """

    y: Tensor
    n_classes: int
    source: str
    split: str
    indices: Tensor
    class_names: tuple[str, ...] | None
    numbered: bool
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def where(self) -> str:
        """Source and split, for messages."""
        return f"{self.source} ({self.split})"

    @property
    def index_sha256(self) -> str:
        """Hash of the split's name and the indices in it: which images, in which order."""
        return index_sha256(self.split, self.indices.tolist())

    @property
    @abstractmethod
    def content_sha256(self) -> str:
        """Hash of what the images are."""

    def has_content(self, sha256: str) -> bool:
        """Whether a recorded hash is of these images."""
        return sha256 == self.content_sha256

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""

    def require_shape(self, input_shape: tuple[int, int, int]) -> None:
        """Raise RequestError unless the images have the shape that a model takes."""
        if self.shape != input_shape:
            raise RequestError(
                f"images of {self.where} are {_shape(self.shape)}, the model takes {_shape(input_shape)}"
            )

    def require_labels(self, n_classes: int) -> None:
        """Raise RequestError for a label outside a model's classes, with its index in the split."""
        outside = (self.y < 0) | (self.y >= n_classes)
        if outside.any():
            position = int(outside.nonzero()[0])
            raise RequestError(
                f"image {int(self.indices[position])} of {self.where} has label {int(self.y[position])}, "
                f"outside the model's classes 0..{n_classes - 1}"
            )


@dataclass(frozen=True)
class ImageData(Labelled):
    """Images in memory, and labels, of (a part of) one split. Many large images are in a file, see ``on_disk``.

    Attributes:
        x: images (n, c, h, w) on the CPU: uint8 in 0..255, or float32 in [0,1].
        preprocessing: what was done to images of other sizes, in words; None if they are as they were.
        revision: the commit of the hub's data set that they are from; None for others.
    """

    x: Tensor
    y: Tensor
    n_classes: int
    source: str
    split: str
    indices: Tensor
    preprocessing: str | None = None
    class_names: tuple[str, ...] | None = None
    numbered: bool = True
    notes: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.x.shape
        return channels, height, width

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        """Images (len(positions), c, h, w) as float32 in [0,1]."""
        found = contiguous(to_float(self.x[torch.as_tensor(positions)]))
        on_disk.release(self.x)
        return found

    def select(self, positions: Sequence[int] | Tensor) -> "ImageData":
        """The images at these positions, which keep their indices in the split."""
        chosen = torch.as_tensor(positions)
        return replace(self, x=on_disk.take(self.x, chosen), y=self.y[chosen], indices=self.indices[chosen])

    @property
    def info(self) -> DataInfo:
        """The lines of a result about its images."""
        return DataInfo(
            source=self.source,
            split=self.split,
            n=len(self),
            index_sha256=self.index_sha256,
            content_sha256=self.content_sha256,
            preprocessing=self.preprocessing,
            revision=self.revision,
        )

    def of_channels(self, channels: int) -> "ImageData":
        """The images with 1 or 3 channels, if they can have them: grey pixels may be stored once or three times."""
        if channels == 3 and self.x.shape[1] == 1:
            return replace(self, x=self.x.expand(-1, 3, -1, -1).contiguous())
        if channels == 1 and self.x.shape[1] == 3 and torch.equal(self.x, self.x[:, :1].expand_as(self.x)):
            return replace(self, x=self.x[:, :1].contiguous())
        return self

    @cached_property
    def content_sha256(self) -> str:
        """Hash of pixels and labels in their order: the same for equal images, wherever and however they are stored.

        Float pixels that are all whole 255ths have the hash of the same images in 8 bits.
        """
        return self._sha256(torch.uint8) if _is_8bit(self.x) else self._sha256(self.x.dtype)

    def has_content(self, sha256: str) -> bool:
        """Whether a recorded hash is of these images; older runs always hashed float pixels as floats."""
        return sha256 == self.content_sha256 or sha256 == self._sha256(self.x.dtype)

    def _sha256(self, dtype: torch.dtype) -> str:
        digest = hashlib.sha256(f"{dtype} {list(self.x.shape)}\n".encode())
        for part in parts(self.x):
            pixels = part if part.dtype == dtype else _to_8bit(part)
            digest.update(pixels.contiguous().numpy().data)
        digest.update(self.y.contiguous().numpy().data)
        return digest.hexdigest()

    def require(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        """Check that a model with this input shape and number of classes can be asked about these images.

        Raises:
            RequestError: other channels or size, or a label outside the classes (with its index in the split).
        """
        self.require_shape(input_shape)
        self.require_labels(n_classes)


def _is_8bit(x: Tensor) -> bool:
    """Whether every pixel is one of the 256 levels that 8 bits have."""
    return x.dtype == torch.uint8 or all(torch.equal(to_float(_to_8bit(part)), part) for part in parts(x))


def parts(x: Tensor) -> Iterator[Tensor]:
    """The images, some after the other; of pixels on the disk no more than these are in memory."""
    for start in range(0, len(x), HASHED_AT_ONCE):
        yield x[start : start + HASHED_AT_ONCE]
        on_disk.release(x)


def extremes(x: Tensor) -> tuple[float, float]:
    """The lowest and the highest pixel; NaN if there is one."""
    low, high = zip(*((part.min(), part.max()) for part in parts(x)), strict=True)
    return float(torch.stack(low).min()), float(torch.stack(high).max())


def _to_8bit(x: Tensor) -> Tensor:
    return x.mul(255).round_().to(torch.uint8)


def to_float(x: Tensor) -> Tensor:
    """Pixels as float32 in [0,1]: uint8 is divided by 255, float32 stays as it is."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def count(n: int | None, available: int, where: str) -> int:
    """How many images to take: ``n``, or all that there are.

    Raises:
        RequestError: the split is empty, or ``n`` is below 1 or above what there is.
    """
    if available == 0:
        raise RequestError(f"{where} has no images")
    if n is None:
        return available
    if n < 1:
        raise RequestError(f"n is {n}; ask for at least 1 image")
    if n > available:
        raise RequestError(f"n is {n}, but {where} has {available} images")
    return n


def labels(values: np.ndarray, n_classes: int, where: str, first: int = 0) -> Tensor:
    """Labels (n,) as int64.

    Args:
        first: the row in which the first of them stands.

    Raises:
        RequestError: a label outside 0..n_classes-1 (with its position).
    """
    outside = np.flatnonzero((values < 0) | (values >= n_classes))
    if outside.size:
        row = int(outside[0])
        raise RequestError(
            f"{where}: row {first + row} has label {values[row]}, outside the classes 0..{n_classes - 1}"
        )
    return torch.from_numpy(values.astype(np.int64))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
