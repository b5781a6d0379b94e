"""A folder of class folders: ``<folder>/<split>/<class>/*.png`` (or ``.jpg``, ``.jpeg``)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from robustctl.data.decode import decode
from robustctl.data.image_data import count, labels
from robustctl.errors import RequestError

SUFFIXES = {".png", ".jpg", ".jpeg"}


class Files:
    """Image files below ``root``; only their names are in memory."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> bytes:
        try:
            return (self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise RequestError(f"cannot read {self.name(i)}: {error.strerror}") from None

    def name(self, i: int) -> str:
        """The file's path."""
        return f"{self.root}/{self.names[i]}"

    def shuffled(self, indices: Tensor, generator: Generator) -> Tensor:
        """A permutation: one file is read as fast as another."""
        return torch.randperm(len(indices), generator=generator)


def read(folder: Path, split: str, n: int | None) -> tuple[Tensor, Tensor, int]:
    """Read the first ``n`` images of a split: x uint8 (n, c, h, w), y int64 (n,), number of classes.

    Raises:
        RequestError: as ``find``, images of several sizes, a damaged image, or more than there are.
    """
    files, y, n_classes = find(folder, split)
    taken = count(n, len(files), str(folder / split))
    first = Files(files.root, files.names[:taken])
    return decode(first, first.name), y[:taken], n_classes


def find(folder: Path, split: str) -> tuple[Files, Tensor, int]:
    """The files of a split, their labels int64 (n,), and the number of classes.

    Labels number the class folders of all splits together: by value where every name is a whole number, else by name.
    Images come in the order of an even walk through the classes (first of each, second of each, ...), so that the
    first ``n`` hold every class.

    Raises:
        RequestError: no such split (the splits are listed).
    """
    splits = _subfolders(folder)
    if split not in [path.name for path in splits]:
        found = ", ".join(path.name for path in splits) or "none"
        raise RequestError(
            f"{folder} has no split {split!r}; its splits: {found}. Expected {folder}/<split>/<class>/<image>.png"
        )
    classes = _classes(splits)
    root = folder / split
    walk = sorted(
        (position, label, f"{name}/{file}")
        for label, name in enumerate(classes)
        for position, file in enumerate(_images(root / name))
    )
    y = labels(np.array([label for _, label, _ in walk], dtype=np.int64), len(classes), str(folder))
    return Files(root, [name for _, _, name in walk]), y, len(classes)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(splits: list[Path]) -> list[str]:
    names = {path.name for split in splits for path in _subfolders(split)}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
