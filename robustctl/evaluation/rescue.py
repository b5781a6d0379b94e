"""Takes what is sound out of a damaged verdict store: SQLite's file format keeps rows in pages that stand alone."""

import shutil
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

MAGIC = b"SQLite format 3\0"
PAGE_SIZE_AT, MARK_AT, VALID_FOR_AT = slice(16, 18), slice(60, 64), slice(92, 96)
MOST_RANGES = 500
"""Ranges of rows that are tried: a damaged page is surrounded by two or three."""

LEAST_NUMBERS = 1 << 20
"""Positions of images are row numbers too, and a small store may hold a late one."""

Rows = Mapping[str, list[tuple[object, ...]]]


def sound_rows(damaged: Path, template: Path, tables: Mapping[str, int]) -> Rows:
    """The rows of each table that can still be read; the caller checks what they say.

    Args:
        damaged: the store; it is left alone.
        template: an empty store made by this version. Its first page, which describes the tables, is tried in place
            of the damaged one.
        tables: their names and numbers of columns; columns that an older store lacks are None.
    """
    copy = template.with_name(f"{template.name}.copy")
    best: dict[str, list[tuple[object, ...]]] = {name: [] for name in tables}
    try:
        for first_page in (MAGIC, _first_page(template.read_bytes())):
            shutil.copyfile(damaged, copy)
            with copy.open("rb+") as file:
                file.write(first_page)
            for name, columns in tables.items():
                if len(found := _read(copy, name, columns)) > len(best[name]):
                    best[name] = found
    finally:
        copy.unlink(missing_ok=True)
    return best


def keep_beside(store: Path, kept: Path) -> None:
    """Keep the store's present bytes in ``kept`` too: by a link, or by a copy if the file system has no links."""
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(store)
    except OSError:
        shutil.copyfile(store, kept)


def mark_of(path: Path) -> int:
    """The header's value for ``PRAGMA user_version``; it is read from the bytes, which may be all that is sound."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(100)[MARK_AT], "big", signed=True)


def _first_page(template: bytes) -> bytes:
    """The template's first page, with the header left to find out by itself how long the file is."""
    size = int.from_bytes(template[PAGE_SIZE_AT], "big")
    page = bytearray(template[:size])
    page[VALID_FOR_AT] = b"\xff\xff\xff\xff"  # so that the number of pages is taken from the file's length
    return bytes(page)


def _read(path: Path, table: str, columns: int) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
            connection.execute("PRAGMA cell_size_check = ON")
            last = max(path.stat().st_size, LEAST_NUMBERS)  # a row takes more than one byte
            rows = _between(connection, table, 0, last)
            return [(*row, *[None] * (columns - len(row))) for row in rows if len(row) <= columns]
    except (sqlite3.Error, UnicodeDecodeError):  # SQLite may quote what is in the file
        return []


def _between(connection: sqlite3.Connection, table: str, first: int, last: int) -> Iterator[tuple[object, ...]]:
    """The readable rows with numbers from ``first`` to ``last``.

    A range is read from both ends up to a damaged page. The range between is halved, and so on.
    """
    ranges = deque([(first, last)])
    for _ in range(MOST_RANGES):
        if not ranges:
            return
        low, high = ranges.popleft()
        for order, step in (("ASC", 1), ("DESC", -1)):
            query = f"SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid {order}"
            try:
                for number, *row in connection.execute(query, (low, high)):
                    low, high = (number + 1, high) if step > 0 else (low, number - 1)
                    yield tuple(row)
                break  # all of the range was readable
            except (sqlite3.Error, UnicodeDecodeError):
                continue
        else:
            if low < high:
                middle = (low + high) // 2
                ranges += [(low, middle), (middle + 1, high)]
