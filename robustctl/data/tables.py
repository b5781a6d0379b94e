"""Labels and images in the columns of arrow tables, as parquet files and saved data sets have them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from robustctl.data.image_data import labels
from robustctl.data.split import MAX_CLASSES, in_order
from robustctl.errors import RequestError


@dataclass(frozen=True)
class Labels:
    """The labels of a split and their meaning; the attributes are as in ``data.split.Split``."""

    y: Tensor
    n_classes: int
    class_names: tuple[str, ...] | None
    numbered: bool


def read_labels(
    parts: Iterable[pa.ChunkedArray | pa.Array], schema: pa.Schema, column: str, keep: int | None, where: str
) -> Labels:
    """Put the labels of all parts together.

    The classes are those that the metadata names; else the values themselves if they are texts, sorted; else the
    numbers up to the largest one.

    Args:
        parts: the column, in any pieces. All are looked at, as each may hold the largest label.
        keep: labels to return; all for None.

    Raises:
        RequestError: labels that are missing, are neither whole numbers nor texts, or are outside the classes.
    """
    names = class_names(schema, column)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts(parts, column, keep, where)
    if not pa.types.is_integer(kind):
        raise RequestError(f"{where}: column {column} must hold whole numbers or names of classes, not {kind}")
    kept: list[np.ndarray] = []
    count, largest = 0, -1
    for part in parts:
        values = _present(part, column, where).to_numpy(zero_copy_only=False).astype(np.int64)
        bound = len(names) if names else MAX_CLASSES
        labels(values, bound, where, first=count)
        largest = max(largest, int(values.max(initial=-1)))
        if keep is None or count < keep:
            kept.append(values if keep is None else values[: keep - count])
        count += len(values)
    y = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return Labels(torch.from_numpy(y), len(names) if names else largest + 1, names, numbered=True)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names that the hub's metadata gives the numbers of a column; None if it gives none."""
    found: Any = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(found)
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, dict):  # older versions write them by number
        found = [found.get(str(i)) for i in range(len(found))]
    return (
        tuple(map(str, found))
        if isinstance(found, list) and found and len(set(map(str, found))) == len(found)
        else None
    )


def images(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """The bytes of encoded images, whether the column is plain or the hub's struct of bytes and path."""
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def require_images(schema: pa.Schema, column: str, where: str) -> None:
    """Raise RequestError unless the column holds bytes, or the hub's struct around them."""
    kind = schema.field(column).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner) or pa.types.is_null(inner)):
        raise RequestError(f"{where}: column {column} holds {kind}, not encoded images")


def _of_texts(parts: Iterable[pa.ChunkedArray | pa.Array], column: str, keep: int | None, where: str) -> Labels:
    seen: dict[str, int] = {}
    kept: list[int] = []
    for value in _texts(parts, column, where):
        number = seen.setdefault(value, len(seen))
        if len(seen) > MAX_CLASSES:
            raise RequestError(f"{where}: column {column} has more than {MAX_CLASSES:,} different texts")
        if keep is None or len(kept) < keep:
            kept.append(number)
    names = in_order(seen)
    place = {seen[name]: i for i, name in enumerate(names)}
    y = torch.tensor([place[number] for number in kept], dtype=torch.int64)
    return Labels(y, len(names), tuple(names), numbered=False)


def _texts(parts: Iterable[pa.ChunkedArray | pa.Array], column: str, where: str) -> Iterator[str]:
    for part in parts:
        yield from _present(part, column, where).to_pylist()


def _present(part: pa.ChunkedArray | pa.Array, column: str, where: str) -> pa.ChunkedArray | pa.Array:
    if part.null_count:
        raise RequestError(f"{where}: column {column} lacks {part.null_count} labels")
    return part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part
