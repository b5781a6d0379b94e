"""A folder in the hub's parquet layout: ``split-00000-of-00001.parquet`` with ``img`` or ``image``, and ``label``."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from robustctl.data.decode import decode
from robustctl.data.image_data import count, labels
from robustctl.errors import RequestError

FILE_NAME = re.compile(r"(?P<split>\w[\w.]*?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5})(-[0-9a-f]+)?)?\.parquet")
IMAGE_COLUMNS = ("img", "image")
BLOCK = 512 * 2**20
"""Encoded bytes of the row groups that are shuffled together: about 5,000 photographs."""
KEPT = 2 * BLOCK
"""Encoded bytes in memory: of the present block, and of the next, which is being prepared."""


def is_parquet(folder: Path) -> bool:
    """Whether the folder, or one inside it, holds parquet files."""
    return any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))


class RowGroups:
    """Image columns of parquet files, read one row group at a time; ``KEPT`` bytes of groups stay in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        groups = [(path, number, part) for path in files for number, part in _row_groups(path)]
        self.groups = [(path, number) for path, number, _ in groups]
        self.bytes = [part.total_byte_size for _, _, part in groups]
        self.starts = np.cumsum([0, *(part.num_rows for _, _, part in groups)])
        self.file_starts = {path: int(self.starts[i]) for i, (path, number) in enumerate(self.groups) if number == 0}
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> bytes:
        group = self._group_of(i)
        encoded: bytes = self._read(group)[i - int(self.starts[group])].as_py()
        return encoded

    def name(self, i: int) -> str:
        """File and row."""
        path, _ = self.groups[self._group_of(i)]
        return f"row {i - self.file_starts[path]} of {path}"

    def shuffled(self, indices: Tensor, generator: Generator) -> Tensor:
        """Row groups in random order, and the images of ``BLOCK`` bytes of them at a time in random order."""
        group_of = torch.from_numpy(np.searchsorted(self.starts, indices.numpy(), side="right") - 1)
        order = torch.randperm(len(self.groups), generator=generator)
        block, filled = torch.zeros(len(self.groups), dtype=torch.int64), 0
        for group in order.tolist():
            block[group] = filled // BLOCK
            filled += self.bytes[group]
        mixed = torch.randperm(len(indices), generator=generator)
        return mixed[block[group_of[mixed]].argsort(stable=True)]

    def _group_of(self, i: int) -> int:
        return int(np.searchsorted(self.starts, i, side="right")) - 1

    def _read(self, group: int) -> pa.ChunkedArray:
        with self._lock:  # held while reading: several threads want the same group at once
            if group not in self._kept:
                self._kept[group] = _images(*self.groups[group])
                while len(self._kept) > 1 and sum(self.bytes[one] for one in self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]


def read(folder: Path, split: str, n: int | None) -> tuple[Tensor, Tensor, int]:
    """Read the first ``n`` images of a split: x uint8 (n, c, h, w), y int64 (n,), number of classes.

    Raises:
        RequestError: as ``find``, a damaged image, images of several sizes, or more than there are.
    """
    rows, y, n_classes = find(folder, split)
    taken = count(n, len(rows), f"{folder} ({split})")
    return decode([rows[i] for i in range(taken)], rows.name), y[:taken], n_classes


def find(folder: Path, split: str) -> tuple[RowGroups, Tensor, int]:
    """The rows of a split, their labels int64 (n,), and the number of classes.

    The number of classes is that of the label names in the files' metadata, or else the largest label plus one.

    Raises:
        RequestError: no such split (the splits are listed), a missing shard or column, a damaged file, labels outside
            the classes, or several configurations to choose from.
    """
    files = _split_files(_config_folder(folder), split)
    tables = [_labels(path) for path in files]
    y = np.concatenate([table["label"].to_numpy() for table in tables])
    n_classes = _n_classes(tables[0], y)
    return RowGroups(files), labels(y, n_classes, f"{folder} ({split})"), n_classes


def _config_folder(folder: Path) -> Path:
    if any(folder.glob("*.parquet")):
        return folder
    configs = sorted({path.parent for path in folder.glob("*/*.parquet")})
    if len(configs) > 1:
        names = ", ".join(str(config) for config in configs)
        raise RequestError(f"{folder} holds several configurations; name one of: {names}")
    return configs[0]


def _split_files(folder: Path, split: str) -> list[Path]:
    """The split's shards in order."""
    matches = [(path, FILE_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.parquet"))]
    files = [(path, match) for path, match in matches if match and match["split"] == split]
    if not files:
        splits = sorted({match["split"] for _, match in matches if match})
        raise RequestError(f"{folder} has no split {split!r}; its splits: {', '.join(splits) or 'none'}")
    present = {int(match["shard"] or 0) for _, match in files}
    missing = sorted(set(range(int(files[0][1]["shards"] or 1))) - present)
    if missing:
        raise RequestError(f"{folder} lacks shard {missing[0]} of split {split!r}; fetch the data again")
    return [path for path, _ in files]


def _labels(path: Path) -> pa.Table:
    """The column of labels of one file whose other columns have been checked."""
    with _reading(path):
        names = pq.read_schema(path).names
        if not set(IMAGE_COLUMNS) & set(names) or "label" not in names:
            raise RequestError(f"{path} needs a column img or image, and label; its columns: {', '.join(names)}")
        table = pq.read_table(path, columns=["label"])
    if not pa.types.is_integer(table.schema.field("label").type) or table["label"].null_count:
        raise RequestError(f"{path}: column label must hold whole numbers, none missing")
    return table


def _images(path: Path, group: int) -> pa.ChunkedArray:
    """The encoded images of one row group, be the column plain or the hub's struct of bytes and path."""
    with _reading(path), pq.ParquetFile(path) as file:
        name = next(name for name in IMAGE_COLUMNS if name in file.schema_arrow.names)
        column = file.read_row_group(group, columns=[name]).column(0)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _row_groups(path: Path) -> Iterator[tuple[int, pq.RowGroupMetaData]]:
    with _reading(path):
        metadata = pq.read_metadata(path)
    return ((number, metadata.row_group(number)) for number in range(metadata.num_row_groups))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def _n_classes(table: pa.Table, y: np.ndarray) -> int:
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return len(names) if names else int(y.max(initial=0)) + 1
