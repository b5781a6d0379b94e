"""Images and labels: one source a file. Everything here is local; the hub is the registry's matter."""

from pathlib import Path

import torch

from robustctl.data import digits, folder, npz, parquet
from robustctl.data.encoded import EncodedData
from robustctl.data.image_data import ImageData, count
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec

__all__ = ["EncodedData", "ImageData", "load", "load_to_train"]

IN_MEMORY = 4 * 2**30
"""Bytes of decoded pixels that training keeps in memory; larger data sets stay encoded on the disk."""


def load(source: str, split: str, n: int | None = None, spec: ModelSpec | None = None) -> ImageData:
    """Read the first ``n`` images (all of them where None) of a split into memory.

    Args:
        source: ``digits``, a folder in the hub's parquet layout (the dataset's top folder or the configuration inside
            it), a folder of ``split/class/image`` files, or an ``.npz`` file, for which the split is always ``all``.
        spec: the model that will be asked about them. One with ``resizing`` takes images of any size in folders: they
            are resized and cut, unless all of the ``n`` have its size.

    Raises:
        RequestError: no such source or split, damaged data, more images than there are, or images of several sizes
            that may not be resized.
    """
    path = Path(source).expanduser()
    if spec and spec.resizing and path.is_dir():
        encoded = _encoded(path, source, split, any_size=True)
        first = encoded.select(range(count(n, len(encoded), encoded.where)))
        return first.decoded(spec.input_shape, spec.resizing)
    if source == "digits":
        x, y, n_classes = digits.read(split, n)
    elif path.is_dir():
        read = parquet.read if parquet.is_parquet(path) else folder.read
        x, y, n_classes = read(path, split, n)
    elif path.is_file():
        split = "all"
        x, y, n_classes = npz.read(path, n)
    else:
        raise RequestError(f"no data at {source!r}; give digits, a folder, an .npz file, or a hub data set USER/NAME")
    return ImageData(x, y, n_classes, source, split, torch.arange(len(y)))


def load_to_train(
    source: str, split: str, *, any_size: bool, side: int | None = None, limit: int = IN_MEMORY
) -> ImageData | EncodedData:
    """Read a whole split for training: into memory, or only its names and labels.

    A folder's images stay encoded where their pixels would take more than ``limit`` bytes, judged by the first image,
    and where they may have any size and do not all have the one that is wanted.

    Args:
        any_size: whether images of other sizes may be cut to the model's.
        side: height and width that the model takes; None: those of the images, if they are square and equal.

    Raises:
        RequestError: as ``load``.
    """
    path = Path(source).expanduser()
    if source == "digits" or not path.is_dir():
        return load(source, split)
    encoded = _encoded(path, source, split, any_size=any_size)
    count(None, len(encoded), encoded.where)
    channels, height, width = encoded.shape
    if len(encoded) * channels * height * width > limit:
        return encoded
    wanted = side or (height if height == width else 0)
    return encoded if any_size and not encoded.all_of(wanted, wanted) else load(source, split)


def _encoded(path: Path, source: str, split: str, *, any_size: bool) -> EncodedData:
    find = parquet.find if parquet.is_parquet(path) else folder.find
    encoded, y, n_classes = find(path, split)
    return EncodedData(encoded, y, n_classes, source, split, torch.arange(len(y)), any_size)
