"""A folder of class folders: ``<folder>/<split>/<class>/*.png`` (or ``.jpg``, ``.jpeg``)."""

from pathlib import Path

import numpy as np
from torch import Tensor

from robustctl.data.decode import decode
from robustctl.data.image_data import count, labels
from robustctl.errors import RequestError

SUFFIXES = {".png", ".jpg", ".jpeg"}


def read(folder: Path, split: str, n: int | None) -> tuple[Tensor, Tensor, int]:
    """Read the first ``n`` images of a split: x uint8 (n, c, h, w), y int64 (n,), number of classes.

    Labels number the class folders of all splits together: by value where every name is a whole number, else by name.
    Images come in the order of an even walk through the classes (first of each, second of each, ...), so that the
    first ``n`` hold every class.

    Raises:
        RequestError: no such split (the splits are listed), no images, a damaged image, or more than there are.
    """
    splits = _subfolders(folder)
    if split not in [path.name for path in splits]:
        found = ", ".join(path.name for path in splits) or "none"
        raise RequestError(
            f"{folder} has no split {split!r}; its splits: {found}. Expected {folder}/<split>/<class>/<image>.png"
        )
    classes = _classes(splits)
    walk = sorted(
        (position, label, path)
        for label, name in enumerate(classes)
        for position, path in enumerate(_images(folder / split / name))
    )
    taken = walk[: count(n, len(walk), str(folder / split))]
    x = decode([path.read_bytes() for _, _, path in taken], lambda i: str(taken[i][2]))
    return x, labels(np.array([label for _, label, _ in taken]), len(classes), str(folder)), len(classes)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(splits: list[Path]) -> list[str]:
    names = {path.name for split in splits for path in _subfolders(split)}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
