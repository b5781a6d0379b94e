"""A folder in the hub's parquet layout: ``split-00000-of-00001.parquet`` with ``img`` or ``image``, and ``label``."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from robustctl.data.decode import decode
from robustctl.data.image_data import count, labels
from robustctl.errors import RequestError

FILE_NAME = re.compile(r"(?P<split>\w[\w.]*?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5})(-[0-9a-f]+)?)?\.parquet")
IMAGE_COLUMNS = ("img", "image")


def is_parquet(folder: Path) -> bool:
    """Whether the folder, or one inside it, holds parquet files."""
    return any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))


def read(folder: Path, split: str, n: int | None) -> tuple[Tensor, Tensor, int]:
    """Read the first ``n`` images of a split: x uint8 (n, c, h, w), y int64 (n,), number of classes.

    The number of classes is that of the label names in the files' metadata, or else the largest label plus one.

    Raises:
        RequestError: no such split (the splits are listed), a missing shard or column, a damaged file or image,
            labels outside the classes, more images than there are, or several configurations to choose from.
    """
    files = _split_files(_config_folder(folder), split)
    tables = [_table(path) for path in files]
    rows_of = [(path, row) for path, table in zip(files, tables, strict=True) for row in range(table.num_rows)]
    y = np.concatenate([table["label"].to_numpy() for table in tables])
    n_classes = _n_classes(tables[0], y)
    taken = count(n, len(y), f"{folder} ({split})")
    encoded = [image for table in tables for image in _encoded(table, taken)][:taken]

    def name_of(i: int) -> str:
        path, row = rows_of[i]
        return f"row {row} of {path}"

    x = decode(encoded, name_of)
    return x, labels(y, n_classes, f"{folder} ({split})")[:taken], n_classes


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


def _table(path: Path) -> pa.Table:
    try:
        names = pq.read_schema(path).names
        image_columns = [name for name in IMAGE_COLUMNS if name in names]
        if not image_columns or "label" not in names:
            raise RequestError(f"{path} needs a column img or image, and label; its columns: {', '.join(names)}")
        table = pq.read_table(path, columns=[image_columns[0], "label"])
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None
    if not pa.types.is_integer(table.schema.field("label").type) or table["label"].null_count:
        raise RequestError(f"{path}: column label must hold whole numbers, none missing")
    return table


def _encoded(table: pa.Table, n: int) -> list[bytes]:
    """The first ``n`` images' bytes, be the column plain or the hub's struct of bytes and path."""
    column = table.column(0)[:n]
    encoded: list[bytes] = (pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column).to_pylist()
    return encoded


def _n_classes(table: pa.Table, y: np.ndarray) -> int:
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return len(names) if names else int(y.max(initial=0)) + 1
