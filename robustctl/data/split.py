"""One split of a source before its images are decoded."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor

from robustctl.data.decode import Encoded

MAX_CLASSES = 1_000_000


class ImagesOnDisk(Encoded, Protocol):
    """The images of a split on the disk. Reading one raises RequestError if it is not there any more."""

    def name(self, i: int) -> str:
        """The name of the i-th image in a message."""

    def shuffled(self, indices: Tensor, generator: Generator) -> Tensor:
        """Positions in ``indices`` in a random order in which the images can be read fast."""

    def first(self, n: int) -> "ImagesOnDisk":
        """The first ``n`` images alone: no more is read than they need."""


@dataclass(frozen=True)
class Split:
    """A split as its source knows it.

    Attributes:
        images: encoded, in order.
        y: labels (n,) int64 in 0..n_classes-1.
        n_classes: number of classes of the source, not only of those that occur.
        class_names: in the order of the labels; None if the source has numbers alone.
        numbered: the source itself says which number a class has; else its classes are numbered by their names.
        notes: what a user must know about the reading, a sentence each.
    """

    images: ImagesOnDisk
    y: Tensor
    n_classes: int
    class_names: tuple[str, ...] | None = None
    numbered: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pixels:
    """A split of a source of pixels: ``x`` (n, c, h, w) uint8 or float32 in [0,1]; the rest is as in ``Split``."""

    x: Tensor
    y: Tensor
    n_classes: int
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: by value if all are whole numbers, else by name."""
    found = list(names)
    numbers = all(name.isascii() and name.isdecimal() for name in found)
    return sorted(found, key=lambda name: (int(name), name)) if numbers else sorted(found)
