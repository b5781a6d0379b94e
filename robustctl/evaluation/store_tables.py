"""The tables of a verdict store, and how a damaged row is told from a sound one."""

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Any

TABLES = """
CREATE TABLE IF NOT EXISTS key (field TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clean (position INTEGER PRIMARY KEY, correct INTEGER NOT NULL, margin REAL NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
    norm TEXT NOT NULL, family TEXT NOT NULL, position INTEGER NOT NULL,
    broken INTEGER NOT NULL, inside INTEGER NOT NULL, margin REAL NOT NULL, x_adv BLOB,
    PRIMARY KEY (norm, family, position)
);
CREATE INDEX IF NOT EXISTS by_position ON verdicts (norm, position);
CREATE TABLE IF NOT EXISTS spent (
    norm TEXT NOT NULL, family TEXT NOT NULL, session TEXT NOT NULL, evaluations REAL NOT NULL,
    PRIMARY KEY (norm, family, session)
);
CREATE TABLE IF NOT EXISTS measures (position INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS repaired (what TEXT NOT NULL);
"""
CHECKED = {"clean": 3, "verdicts": 7, "measures": 2}
"""Tables whose rows carry a checksum in a last column, with the number of their other columns. Rows of older stores
have none."""
COLUMNS = {"key": 2, **{name: n + 1 for name, n in CHECKED.items()}, "spent": 4, "sessions": 1, "repaired": 1}
"""All tables with the number of their columns."""
MOST_SPENT = 1e15


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables that a store lacks.

    Raises:
        sqlite3.DatabaseError: one that is there is described otherwise.
    """
    _create(connection)
    if not _described() <= _descriptions(connection):
        raise sqlite3.DatabaseError("its tables have other columns")


def _create(connection: sqlite3.Connection) -> None:
    for statement in TABLES.split(";"):
        connection.execute(statement)
    for table in CHECKED:
        if "checksum" not in {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT")


def _descriptions(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Name and SQL text of every table and index."""
    return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


@cache
def _described() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        _create(connection)
        return _descriptions(connection)


def checksum(*row: object) -> str:
    """Hash of a row's values: whole numbers, floats (to the bit), texts, bytes or None."""
    shown = [value.hex() if isinstance(value, float | bytes) else value for value in row]
    return hashlib.blake2b(repr(shown).encode("utf-8", "replace"), digest_size=8).hexdigest()


def is_sound(table: str, row: Sequence[Any], stored: object) -> bool:
    """Whether a row of a checked table is as it was written.

    Args:
        row: its values. stored: its checksum; a row of an older store has None, and must agree with itself.
    """
    if stored is not None:
        return checksum(*row) == stored
    if table == "verdicts":  # of an older store: what the columns say must agree
        _, _, position, broken, inside, margin, x_adv = row
        if not (isinstance(position, int) and broken in (0, 1) and inside in (0, 1) and isinstance(margin, float)):
            return False
        if broken:
            return inside == 1 and margin >= 0 and x_adv is not None
        return x_adv is None and (not inside or margin <= 0)
    if table == "clean":
        _, correct, margin = row
        return correct in (0, 1) and isinstance(margin, float) and (margin <= 0 if correct else margin >= 0)
    return isinstance(row[1], str)


def is_plausible(table: str, row: Sequence[Any]) -> bool:
    """Whether a row of ``spent``, ``sessions`` or ``repaired``, which no verdict relies on, can be what was written."""
    *texts, number = row if table != "repaired" else (*row, 0.0)
    return all(isinstance(text, str) for text in texts) and isinstance(number, float | int) and 0 <= number < MOST_SPENT
