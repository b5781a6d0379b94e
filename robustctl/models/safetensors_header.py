"""The contents of a safetensors file, read from its header alone: no torch, no copy of the weights in memory."""

import hashlib
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from robustctl.errors import RequestError
from robustctl.reading import parse_json

CHUNK = 1 << 20
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip


def weights_sha256(path: Path) -> str:
    """The hash that ``checkpoint.weights_sha256`` gives for the model with these weights.

    Raises:
        RequestError: missing, truncated or not safetensors.
    """
    with _opened(path) as (header, file, start):
        return _hash(header, file, start)


def parameters(path: Path) -> int:
    """How many numbers a model's weights are, without the statistics of its batch norms; raises as above."""
    with _opened(path) as (header, _, _):
        named = [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for name, shape in named if not name.endswith(STATISTICS))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], BufferedReader, int]]:
    """The header of a file, the open file, and where its tensors begin; every fault becomes a RequestError."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            text = file.read(min(length, 100_000_000)).decode()
            yield parse_json(text, "its header"), file, 8 + length
    except FileNotFoundError:
        raise RequestError(f"no weights at {path}") from None
    except (RequestError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RequestError(f"cannot read {path}: it is truncated or not a safetensors file ({error})") from None


def _hash(header: dict[str, Any], file: BufferedReader, start: int) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))  # reused: fresh memory for every chunk costs a sixth of the time
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            digest.update(f"{name} torch.{TORCH_NAMES[entry['dtype']]} {entry['shape']}\n".encode())
            file.seek(start + begin)
            for position in range(begin, end, CHUNK):
                chunk = buffer[: min(CHUNK, end - position)]
                if file.readinto(chunk) < len(chunk):
                    raise ValueError(f"{name} lies outside the file")
                digest.update(chunk)
    return digest.hexdigest()
