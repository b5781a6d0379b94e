"""Arrays of images in files of numpy: an ``.npz`` file, or a pair of ``.npy`` files. They have no splits.

Only the images that are asked for are read: an array of many gigabytes may take few bytes on the disk.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from robustctl.data.columns import Columns
from robustctl.data.image_data import count, labels
from robustctl.data.memory import require_memory
from robustctl.data.split import MAX_CLASSES, Pixels
from robustctl.errors import RequestError

PAIRS = (("x", "y"), ("image", "label"), ("images", "labels"))
"""Names of the two arrays; generated data sets use the second pair (Gowal et al. 2021, Wang et al. 2023)."""
LABELS_AT_ONCE = 2**20
MOST_VALUES = 2**26
"""Values of one image: more than 4,096 pixels each way in three colours."""


@dataclass(frozen=True)
class Array:
    """An array in a file, read from its beginning."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    name: str

    def first(self, n: int, where: str) -> np.ndarray:
        """Its next ``n`` rows.

        Raises:
            RequestError: they do not fit into the memory, or the file ends before.
        """
        size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        rows = self.shape[0] if self.fortran else n
        require_memory(rows * size, f"{self.name} of {where}")
        values = np.frombuffer(_exactly(self.file, rows * size, where), self.dtype)
        if self.fortran:
            return np.ascontiguousarray(values.reshape(self.shape, order="F")[:n])
        return values.reshape(n, *self.shape[1:])


def read(path: Path, n: int | None, columns: Columns | None = None) -> Pixels:
    """Read the first ``n`` images of an ``.npz`` file: uint8, or float32 in [0,1]; (n, c, h, w) or (n, h, w, c).

    Raises:
        RequestError: not an npz file, or arrays missing, of a wrong type, shape or range, or more than there are.
    """
    if not zipfile.is_zipfile(path):
        raise RequestError(f"cannot read {path} as .npz: it is not the zip file that numpy.savez writes")
    with _reading(path), zipfile.ZipFile(path) as archive:
        image, label = _names(path, _arrays(archive), columns or Columns())
        with archive.open(f"{image}.npy") as x, archive.open(f"{label}.npy") as y:
            return _pixels(_array(x, image, path), _array(y, label, path), n, str(path))


def mapped(path: Path) -> Pixels:
    """All images of an ``.npz`` file, left on the disk if it is not compressed: what is indexed is read.

    Layouts and errors are as in ``read``, but float pixels are not looked at.
    """
    if not zipfile.is_zipfile(path):
        raise RequestError(f"cannot read {path} as .npz: it is not the zip file that numpy.savez writes")
    with _reading(path), zipfile.ZipFile(path) as archive:
        image, label = _names(path, _arrays(archive), Columns())
        entry = archive.getinfo(f"{image}.npy")
        with archive.open(entry) as x, archive.open(f"{label}.npy") as y:
            pixels, targets = _array(x, image, path), _array(y, label, path)
            _require_images(pixels, targets, str(path))
            if entry.compress_type != zipfile.ZIP_STORED or pixels.fortran:
                return _pixels(pixels, targets, None, str(path))
            offset = _start(path, entry) + x.tell()
            numbers, n_classes = _labels(targets, targets.shape[0], str(path))
        values = np.memmap(path, pixels.dtype, "c", offset, pixels.shape)
    return Pixels(_channels_first(torch.from_numpy(values)), torch.from_numpy(numbers), n_classes)


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the content of a member begins: after its local header, whose fields have lengths of their own."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))
    return entry.header_offset + 30 + int(name) + int(extra)


def _arrays(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _channels_first(x: Tensor) -> Tensor:
    """(n, c, h, w), as a view, of images that have their channels there or last."""
    return x.permute(0, 3, 1, 2) if x.shape[3] in (1, 3) and x.shape[1] not in (1, 3) else x


def read_pair(images: Path, targets: Path, n: int | None) -> Pixels:
    """Read the first ``n`` images of two ``.npy`` files; layouts and errors are as in ``read``."""
    for path in (images, targets):
        if not path.is_file():
            raise RequestError(
                f"no file {path}; images in an .npy file need their labels in another: --data X.npy,Y.npy"
            )
    with _reading(images), images.open("rb") as x, targets.open("rb") as y:
        return _pixels(_array(x, "x", images), _array(y, "y", targets), n, str(images))


def _names(path: Path, present: list[str], columns: Columns) -> tuple[str, str]:
    pair = next((pair for pair in PAIRS if set(pair) <= set(present)), None)
    if pair is None:
        pair = next((pair for pair in PAIRS if set(pair) & set(present)), PAIRS[0])
    image, label = columns.image or pair[0], columns.label or pair[1]
    for name in (image, label):
        if name not in present:
            raise RequestError(f"{path} has no array {name!r}; its arrays: {', '.join(present) or 'none'}")
    return image, label


def _array(file: IO[bytes], name: str, path: Path) -> Array:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise RequestError(f"cannot read {path}: {name} holds objects, not numbers")
    return Array(file, shape, dtype, fortran, name)


def _require_images(x: Array, y: Array, where: str) -> None:
    if x.dtype not in (np.uint8, np.float32) or len(x.shape) != 4:
        raise RequestError(f"{where}: {x.name} is {x.dtype} {list(x.shape)}; it must be uint8 or float32 (n, c, h, w)")
    if (values := math.prod(x.shape[1:])) > MOST_VALUES:
        raise RequestError(f"{where}: an image of {x.name} has {values:,} values, more than the {MOST_VALUES:,} of any")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise RequestError(f"{where}: {y.name} is {y.dtype} {list(y.shape)}; it must be whole numbers ({x.shape[0]},)")


def _pixels(x: Array, y: Array, n: int | None, where: str) -> Pixels:
    _require_images(x, y, where)
    taken = count(n, x.shape[0], where)
    pixels = x.first(taken, where)
    if x.dtype == np.float32 and not ((pixels >= 0) & (pixels <= 1)).all():
        low, high = pixels.min(), pixels.max()
        raise RequestError(f"{where}: {x.name} reaches from {low:g} to {high:g}; float32 pixels must be within [0,1]")
    targets, n_classes = _labels(y, taken, where)
    images = _channels_first(torch.from_numpy(pixels)).contiguous()
    return Pixels(images, torch.from_numpy(targets), n_classes)


def _labels(y: Array, taken: int, where: str) -> tuple[np.ndarray, int]:
    """The first ``taken`` labels, and the largest of all plus one."""
    kept: list[np.ndarray] = []
    largest, done, left = 0, 0, y.shape[0]
    while left:
        part = y.first(min(left, LABELS_AT_ONCE), where) if not y.fortran else y.first(left, where)
        labels(part, MAX_CLASSES, where, first=done)
        largest = max(largest, int(part.max()))
        if done < taken:
            kept.append(part[: taken - done].astype(np.int64))
        done, left = done + len(part), left - len(part)
    return np.concatenate(kept), largest + 1


def _exactly(file: IO[bytes], size: int, where: str) -> bytearray:
    buffer = bytearray()  # grows with what is really there, whatever the header promises
    while len(buffer) < size:
        part = file.read(min(size - len(buffer), 2**24))
        if not part:
            raise RequestError(f"cannot read {where}: it ends after {len(buffer):,} of {size:,} bytes")
        buffer += part
    return buffer


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"cannot read {path}: {error}") from None
    except RuntimeError as error:  # a password, or a compression that Python lacks
        raise RequestError(f"cannot read {path}: {error}") from None
