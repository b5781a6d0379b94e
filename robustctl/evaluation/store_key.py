"""The key of a verdict store: everything that its verdicts depend on, and the store that a key finds."""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

SCHEMA = "robustctl.store/1"
SHORT = 12
"""Characters of the digest that stand in a file's name."""

NAMES = {"data", "list of points", "indices"}
"""Fields of older keys that say what the images are called: their content, a field of its own, says what they are."""

Key = Mapping[str, object]


def plain(key: Key) -> dict[str, str]:
    """The key as canonical JSON texts by field, with the store's schema as one more field."""
    return {field: json.dumps(value, sort_keys=True) for field, value in {"schema": SCHEMA, **key}.items()}


def digest(key: Key) -> str:
    """Hash of a key, for file names."""
    return hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()


def sha256_of_code(files: Iterable[Path]) -> str:
    """Hash of source files, for verdicts that depend on code which users may change between two versions."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def differing(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The fields in which two keys (as ``plain`` gives them) differ; what the data are called is none."""
    fields = dict.fromkeys([*here, *there])
    return [field for field in fields if there.get(field) != here.get(field) and field not in NAMES]


def place(folder: Path, stem: str, key: Key) -> Path:
    """The store of a key in a folder, made under whatever name of the data; else the path of a new one.

    Args:
        stem: how the names of such stores begin, e.g. ``fast-500``.
    """
    short = digest(key)[:SHORT]
    stores = sorted(folder.glob(f"{stem}-{'?' * SHORT}.sqlite"))  # and none of a single process
    made = (path for path in stores if not differing(read_key(path), plain(key)))
    return next(made, folder / f"{stem}-{short}.sqlite")


def read_key(path: Path) -> dict[str, str]:
    """The key of a store that nobody holds open; empty where there is none to be read."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            return dict(connection.execute("SELECT field, value FROM key"))
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError):  # SQLite may quote what is in a damaged file
        return {}


def mark(key: Mapping[str, str]) -> int:
    """CRC-32 of a key (as ``plain`` gives it), without names: a positive number that fits into the file's header."""
    kept = sorted((field, value) for field, value in key.items() if field not in NAMES)
    return zlib.crc32(repr(kept).encode()) & 0x7FFFFFFF or 1


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """The fields in which two keys differ, each with both values, for a message; empty where there are none."""
    fields = differing(there, here)
    return "; ".join(f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} here" for name in fields)


def _short(value: str | None) -> str:
    text = "nothing" if value is None else value.strip('"')
    return text if len(text) <= 60 else f"{text[:24]}...{text[-24:]}"
