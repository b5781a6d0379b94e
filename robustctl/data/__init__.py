"""Images and labels: one source a file. Everything here is local; the hub is the business of ``models``."""

from dataclasses import replace
from pathlib import Path

import torch

from robustctl.data import decode, digits, folder, npz, on_disk
from robustctl.data.classes import matched
from robustctl.data.columns import Columns, Reading
from robustctl.data.encoded import EncodedData
from robustctl.data.image_data import ImageData, count
from robustctl.data.memory import require_memory
from robustctl.data.split import Pixels, Split
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec

__all__ = ["Columns", "EncodedData", "ImageData", "Reading", "load", "load_to_train", "look"]

IN_MEMORY = 4 * 2**30
"""Bytes of decoded pixels that training keeps in memory; larger data sets stay encoded on the disk."""


def load(
    source: str,
    split: str,
    n: int | None = None,
    spec: ModelSpec | None = None,
    reading: Reading | None = None,
) -> ImageData:
    """Read the first ``n`` images (all of them for None) of a split into memory.

    Args:
        source: ``digits``, a folder of parquet files (the data set's top folder or the configuration inside it) or one
            such file, a folder that ``datasets`` saved, a folder of ``split/class/image`` files, an ``.npz`` file, or
            ``X.npy,Y.npy``. Files have one split, which is called ``all``.
        spec: the model that will be asked about them. One with ``resizing`` takes images of any size in folders: they
            are resized and cut, unless all of the ``n`` have its size. Labels are numbered as its classes are.
        reading: columns and classes that the source does not tell by itself.

    Raises:
        RequestError: no such source or split, damaged data, more images than there are, images of several sizes that
            may not be resized, or classes that are not the model's.
    """
    path = Path(source).expanduser()
    reading = reading or Reading()
    if _is_encoded(source):
        images = _decoded(source, _find(path, split, reading.columns, n), split, n, spec)
    else:
        pixels = _pixels(source, split, n, reading.columns)
        split = split if source == "digits" else "all"
        images = _image_data(pixels, source, split)
    if spec is None:
        return images
    return matched(images, spec, reading.classes)


def look(source: str, split: str, n: int | None = None, columns: Columns | None = None) -> None:
    """Refuse a source, a split or a number of images as ``load`` would, without decoding images.

    Raises:
        RequestError: as ``load``, but for images that turn out to be damaged once they are decoded.
    """
    columns = columns or Columns()
    if _is_encoded(source):
        found = _find(Path(source).expanduser(), split, columns, n)
        count(n, len(found.images), f"{source} ({split})")
    else:
        _pixels(source, split, n or 1, columns)


def load_to_train(
    source: str,
    split: str,
    *,
    any_size: bool,
    side: int | None = None,
    limit: int = IN_MEMORY,
    spec: ModelSpec | None = None,
    reading: Reading | None = None,
) -> ImageData | EncodedData:
    """Read a whole split for training: into memory, or only its names and labels.

    A folder's images stay encoded if their pixels would take more than ``limit`` bytes, judged by the first image, and
    if they may have any size and do not all have the one that is wanted.

    Args:
        any_size: whether images of other sizes may be cut to the model's.
        side: height and width that the model takes; None: the images' own, if they are square and equal.
        spec: the model whose classes the labels are; None for a model that is made for these data.

    Raises:
        RequestError: as ``load``.
    """
    reading = reading or Reading()
    if not _is_encoded(source):
        return load(source, split, None, spec, reading)
    found = _find(Path(source).expanduser(), split, reading.columns, None)
    encoded = _encoded(found, source, split, any_size=any_size)
    count(None, len(encoded), encoded.where)
    channels, height, width = encoded.shape
    wanted = side or (height if height == width else 0)
    if len(encoded) * channels * height * width > limit or (any_size and not encoded.all_of(wanted, wanted)):
        return matched(encoded, spec, reading.classes) if spec else encoded
    images = _decoded(source, found, split, None, None)
    return matched(images.of_channels(spec.input_shape[0]), spec, reading.classes) if spec else images


def _is_encoded(source: str) -> bool:
    path = Path(source).expanduser()
    return source != "digits" and (path.is_dir() or (path.is_file() and path.suffix == ".parquet"))


def _find(path: Path, split: str, columns: Columns, n: int | None) -> Split:
    from robustctl.data import arrow, parquet  # pyarrow takes time to import, and digits and arrays do not need it

    if arrow.is_saved(path):
        return arrow.find(path, split, columns, n)
    if path.is_file() or parquet.is_parquet(path):
        return parquet.find(path, split, columns, n)
    if columns != Columns():
        raise RequestError(f"--columns {columns}: {path} is a folder of images, it has no columns")
    return folder.find(path, split)


def _pixels(source: str, split: str, n: int | None, columns: Columns) -> Pixels:
    """The pixels of sources that hold no encoded images."""
    path = Path(source).expanduser()
    images, comma, targets = source.partition(",")
    if path.is_file() and path.suffix != ".npy":
        return npz.read(path, n, columns)
    if columns != Columns():
        raise RequestError(f"--columns {columns}: {source} has no columns")
    if source == "digits":
        return digits.read(split, n)
    if path.suffix == ".npy" and path.is_file() and not comma:
        return npz.read_pair(path, path.with_name("labels.npy"), n)
    if comma and images.endswith(".npy") and targets.endswith(".npy"):
        return npz.read_pair(Path(images).expanduser(), Path(targets).expanduser(), n)
    raise RequestError(
        f"no data at {source!r}; give digits, a folder, an .npz or .parquet file, X.npy,Y.npy, "
        "or a hub data set USER/NAME"
    )


def _image_data(pixels: Pixels, source: str, split: str) -> ImageData:
    return ImageData(
        pixels.x,
        pixels.y,
        pixels.n_classes,
        source,
        split,
        torch.arange(len(pixels.y)),
        class_names=pixels.class_names,
        notes=pixels.notes,
    )


def _decoded(source: str, found: Split, split: str, n: int | None, spec: ModelSpec | None) -> ImageData:
    encoded = _encoded(found, source, split, any_size=spec is not None and spec.resizing is not None)
    taken = count(n, len(found.images), encoded.where)
    first = replace(encoded, encoded=found.images.first(taken)).select(range(taken))
    channels, height, width = spec.input_shape if spec and spec.resizing else first.shape
    if (size := taken * channels * height * width) < on_disk.LARGE:
        require_memory(size, f"{taken:,} images of {first.where}")
    if spec and spec.resizing:
        return first.decoded(spec.input_shape, spec.resizing)
    images = first.in_memory(decode.decode(first.encoded, first.encoded.name))
    return images.of_channels(spec.input_shape[0]) if spec else images


def _encoded(found: Split, source: str, split: str, *, any_size: bool) -> EncodedData:
    split = "all" if Path(source).expanduser().is_file() else split
    return EncodedData(
        found.images,
        found.y,
        found.n_classes,
        source,
        split,
        torch.arange(len(found.y)),
        any_size,
        found.class_names,
        found.numbered,
        found.notes,
    )
