"""A folder of parquet files as the hub has them: files are sorted into splits, and images are read row by row."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from robustctl.data import tables
from robustctl.data.columns import Columns, spelt_out
from robustctl.data.split import Split
from robustctl.errors import RequestError

FILE_NAME = re.compile(r"(?P<split>\w[\w.]*?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5})(-[0-9a-f]+)?)?\.parquet")
NUMBER = re.compile(r"\d+\.parquet")
DEPTH = 3
"""A file lies at most so deep: ``configuration/split/0000.parquet``."""
BLOCK = 512 * 2**20
"""Encoded bytes of the row groups that are shuffled together: about 5,000 photographs."""
KEPT = 2 * BLOCK
"""Encoded bytes in memory: of the present block, and of the next, which is being prepared."""
ROWS = 64
"""Images that are read at once; of a row group no more is read than what is asked needs."""
UNPACKED = 64 * 2**20
SHRUNK = 10
"""Columns of images that unpack to more than ``UNPACKED`` bytes and so many times their size are no photographs."""


def is_parquet(folder: Path) -> bool:
    """Whether the folder holds parquet files."""
    return next(_files(folder), None) is not None


def split_of(path: PurePosixPath) -> tuple[str, str] | None:
    """Configuration and split of a parquet file by its path inside the data set; None if its name says no split.

    ``plain_text/test-00000-of-00001.parquet``, ``data/test.parquet`` and ``default/test/0000.parquet`` are the ways
    in which the hub writes them.
    """
    if path.suffix != ".parquet" or len(path.parts) > DEPTH or any(part.startswith(".") for part in path.parts):
        return None
    if NUMBER.fullmatch(path.name):
        return (str(path.parent.parent), path.parent.name) if path.parent.name else None
    match = FILE_NAME.fullmatch(path.name)
    return (str(path.parent), match["split"]) if match else None


class RowGroups:
    """Image columns of parquet files, read one row group at a time; ``KEPT`` bytes of groups stay in memory.

    Args:
        column: the name of the images' column in each file.
        n: how many images are wanted; of the last row group that they need, only their rows are read.
    """

    def __init__(self, files: Sequence[Path], column: str, n: int | None = None) -> None:
        self.files, self.column = files, column
        groups = [(path, number, part) for path in files for number, part in _row_groups(path)]
        self.groups = [(path, number) for path, number, _ in groups]
        self.bytes = [part.total_byte_size for _, _, part in groups]
        self.starts = np.cumsum([0, *(part.num_rows for _, _, part in groups)])
        self.file_starts = {path: int(self.starts[i]) for i, (path, number) in enumerate(self.groups) if number == 0}
        self.n = int(self.starts[-1]) if n is None else n
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> bytes:
        group = self._group_of(i)
        encoded: bytes = self._read(group)[i - int(self.starts[group])].as_py()
        return encoded

    def first(self, n: int) -> "RowGroups":
        """The first ``n`` images alone."""
        return RowGroups(self.files, self.column, n)

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
                wanted = min(self.n, int(self.starts[group + 1])) - int(self.starts[group])
                self._kept[group] = _images(*self.groups[group], self.column, wanted)
                while len(self._kept) > 1 and sum(self.bytes[one] for one in self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]


def find(source: Path, split: str, columns: Columns | None = None, n: int | None = None) -> Split:
    """The rows of a split and their labels.

    Args:
        source: the data set's folder, the configuration in it, or a single file, which is its own split.
        n: how many labels are wanted; all are looked at, but no more are kept.

    Raises:
        RequestError: no such split (the splits are listed), a missing shard or column, a damaged file, labels outside
            the classes, or several configurations to choose from.
    """
    files = [source] if source.is_file() else _split_files(source, split)
    schemas = [_schema(path) for path in files]
    chosen = (columns or Columns()).found(schemas[0].names, str(files[0]))
    assert chosen.image is not None and chosen.label is not None
    for path, schema in zip(files, schemas, strict=True):
        Columns(chosen.image, chosen.label).found(schema.names, str(path))
        tables.require_images(schema, chosen.image, str(path))
    where = f"{source} ({split})"
    labels = tables.read_labels(_label_parts(files, chosen.label), schemas[0], chosen.label, n, where)
    note = spelt_out(chosen, schemas[0].names)
    return Split(
        RowGroups(files, chosen.image),
        labels.y,
        labels.n_classes,
        labels.class_names,
        labels.numbered,
        (note,) if note else (),
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for depth in range(DEPTH) for path in sorted(folder.glob("*/" * depth + "*.parquet")))


def _split_files(folder: Path, split: str) -> list[Path]:
    """The split's shards in order."""
    placed = [(path, split_of(PurePosixPath(path.relative_to(folder)))) for path in _files(folder)]
    found = [(path, *place) for path, place in placed if place]
    configs = sorted({config for _, config, of in found if of == split})
    if not configs:
        splits = sorted({of for _, _, of in found})
        raise RequestError(f"{folder} has no split {split!r}; its splits: {', '.join(splits) or 'none'}")
    if len(configs) > 1 and configs[0] != ".":  # files at the top are the folder's own
        names = ", ".join(str(folder / config) for config in configs)
        raise RequestError(f"{folder} holds several configurations; name one of: {names}")
    files = [path for path, config, of in found if of == split and config == configs[0]]
    _require_shards(folder, split, files)
    return files


def _require_shards(folder: Path, split: str, files: list[Path]) -> None:
    matches = [FILE_NAME.fullmatch(path.name) for path in files]
    numbered = [match for match in matches if match and match["shard"]]
    if not numbered:
        return
    missing = sorted(set(range(int(numbered[0]["shards"]))) - {int(match["shard"]) for match in numbered})
    if missing:
        raise RequestError(f"{folder} lacks shard {missing[0]} of split {split!r}; fetch the data again")


def _schema(path: Path) -> pa.Schema:
    with _reading(path):
        return pq.read_schema(path)


def _label_parts(files: Iterable[Path], column: str) -> Iterator[pa.Array]:
    for path in files:
        with _reading(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[column]):
                yield batch.column(0)


def _images(path: Path, group: int, column: str, n: int) -> pa.ChunkedArray:
    """The first ``n`` encoded images of one row group."""
    with _reading(path), pq.ParquetFile(path, pre_buffer=False, memory_map=True) as file:
        whole = file.metadata.row_group(group)
        _require_plausible(path, whole, column)
        if n == whole.num_rows:
            return tables.images(file.read_row_group(group, columns=[column]).column(0))
        parts: list[pa.Array] = []
        for batch in file.iter_batches(min(n, ROWS), row_groups=[group], columns=[column]):
            parts.append(tables.images(batch.column(0))[: n - sum(map(len, parts))])
            if sum(map(len, parts)) >= n:
                break
        return pa.chunked_array(parts)


def _require_plausible(path: Path, group: pq.RowGroupMetaData, column: str) -> None:
    """Refuse pages whose few bytes unpack to gigabytes: encoded images cannot be made so much smaller."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    own = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column]
    packed, unpacked = (
        sum(getattr(chunk, f"total_{kind}_size") for chunk in own) for kind in ("compressed", "uncompressed")
    )
    if unpacked > UNPACKED and unpacked > SHRUNK * packed:
        raise RequestError(f"cannot read {path}: its images unpack from {packed:,} to {unpacked:,} bytes")


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
