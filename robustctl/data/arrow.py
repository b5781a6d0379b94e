"""A folder that the hub's library ``datasets`` has written with ``save_to_disk``: arrow files, mapped into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Generator, Tensor

from robustctl.data import tables
from robustctl.data.columns import Columns, spelt_out
from robustctl.data.split import Split
from robustctl.errors import RequestError
from robustctl.reading import read_json

STATE, SPLITS = "state.json", "dataset_dict.json"
"""The first lies in the folder of a split, the second above the folders of several."""
MAX_STATE = 10_000_000


class Rows:
    """The encoded images of a column; the operating system reads from the disk what is asked for."""

    def __init__(self, column: pa.ChunkedArray, where: str) -> None:
        self.column, self.where = column, where

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, i: int) -> bytes:
        encoded: bytes = tables.images(self.column[i : i + 1].combine_chunks())[0].as_py()
        return encoded

    def name(self, i: int) -> str:
        """Folder and row."""
        return f"row {i} of {self.where}"

    def shuffled(self, indices: Tensor, generator: Generator) -> Tensor:
        """A permutation: one row is read as fast as another."""
        return torch.randperm(len(indices), generator=generator)

    def first(self, n: int) -> "Rows":
        """The first ``n`` images alone."""
        return Rows(self.column[:n], self.where)


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by ``save_to_disk``: one split, or a folder for each."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def find(folder: Path, split: str, columns: Columns | None = None, n: int | None = None) -> Split:
    """The rows of a split and their labels; a data set that was saved without splits is its own split.

    Raises:
        RequestError: no such split (the splits are listed), a missing or damaged file, a missing column, or labels
            outside the classes.
    """
    place = folder if (folder / STATE).is_file() else folder / split
    if not (place / STATE).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))
        raise RequestError(f"{folder} has no split {split!r}; its splits: {', '.join(splits) or 'none'}")
    table = _table(place)
    chosen = (columns or Columns()).found(table.schema.names, str(place))
    assert chosen.image is not None and chosen.label is not None
    tables.require_images(table.schema, chosen.image, str(place))
    labels = tables.read_labels(table[chosen.label].chunks, table.schema, chosen.label, n, str(place))
    note = spelt_out(chosen, table.schema.names)
    rows = Rows(table[chosen.image], str(place))
    return Split(rows, labels.y, labels.n_classes, labels.class_names, labels.numbered, (note,) if note else ())


def _table(place: Path) -> pa.Table:
    """All files that the state names, in its order."""
    with _reading(place):
        parts = [pa.ipc.open_stream(pa.memory_map(str(place / name))).read_all() for name in _file_names(place)]
        if not parts:
            raise RequestError(f"{place} names no files of data")
        return pa.concat_tables(parts)


def _file_names(place: Path) -> list[str]:
    path = place / STATE
    try:
        state: Any = read_json(path, MAX_STATE)
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (RequestError, OSError, KeyError, TypeError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None
    if strays := [name for name in names if Path(name).name != name]:
        raise RequestError(f"{path} names a file outside its folder: {strays[0]!r}")
    return names


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"cannot read {place}: {error}") from None
