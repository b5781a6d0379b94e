"""A folder of class folders: ``<folder>/<split>/<class>/<image>``, in any format that Pillow reads."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from robustctl.data.decode import suffixes
from robustctl.data.image_data import labels
from robustctl.data.split import Split, in_order
from robustctl.errors import RequestError


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

    def first(self, n: int) -> "Files":
        """The first ``n`` files alone."""
        return Files(self.root, self.names[:n])


@dataclass
class LeftOut:
    """Counts what lies beside the images and is not read, by the reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one file or folder."""
        self.reasons[reason] += 1
        self.examples.setdefault(reason, name)

    def text(self, root: Path) -> str | None:
        """How many were left out and why; None if nothing was."""
        if not self.reasons:
            return None
        parts = [f"{n} {reason} (as {self.examples[reason]})" for reason, n in sorted(self.reasons.items())]
        total = sum(self.reasons.values())
        return f"{total} {'file is' if total == 1 else 'files are'} left out of {root}: {', '.join(parts)}"


def find(folder: Path, split: str) -> Split:
    """The files of a split and their labels.

    Labels number the class folders of all splits together: by value if every name is a whole number, else by name.
    Images come in the order of an even walk through the classes (first of each, second of each, ...), so that the
    first ``n`` hold every class.

    Raises:
        RequestError: no such split (the splits are listed), or no image in it (what was left out is said).
    """
    splits = _subfolders(folder)
    if split not in [path.name for path in splits]:
        found = ", ".join(path.name for path in splits) or "none"
        raise RequestError(
            f"{folder} has no split {split!r}; its splits: {found}. Expected {folder}/<split>/<class>/<image>.png"
        )
    classes = in_order({path.name for one in splits for path in _subfolders(one)})
    root, left_out = folder / split, LeftOut()
    for path in sorted(root.iterdir()):
        if not path.is_dir():
            left_out.add("hidden" if path.name.startswith(".") else "in no folder of a class", path.name)
    walk = sorted(
        (position, label, f"{name}/{file}")
        for label, name in enumerate(classes)
        for position, file in enumerate(sorted(_images(root / name, left_out)))
    )
    note = left_out.text(root)
    if not walk:
        raise RequestError(f"{root} has no images{f': {note}' if note else ''}")
    y = labels(np.array([label for _, label, _ in walk], dtype=np.int64), len(classes), str(folder))
    names = [name for _, _, name in walk]
    return Split(Files(root, names), y, len(classes), tuple(classes), False, (note,) if note else ())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path, left_out: LeftOut) -> Iterator[str]:
    known = suffixes()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            left_out.add("hidden", path.name)
        elif path.suffix.lower() not in known:
            reason = "in a folder inside a class's" if path.is_dir() else "of no known image format"
            left_out.add(reason, path.name)
        else:
            yield path.name
