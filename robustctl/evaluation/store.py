"""The verdict store: one SQLite file an evaluation, committed batch by batch, keyed by everything that was measured."""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from robustctl.errors import RunError
from robustctl.files import writing
from robustctl.threats import Norm, Threat

SCHEMA = "robustctl.store/1"
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

NAMES = {"data", "list of points", "indices"}
"""Fields of older keys that say what the images are called: their content, a field of its own, says what they are."""

EXTERNAL, EARLIER, SECOND = "external: ", "earlier: ", "second opinion: "
"""Begin the names of families that are not the protocol's own: attacks from outside, verdicts of earlier evaluations of
the same model, and attacks that only look at a sample. The points that the last ones break are reported, not
counted."""
AUDITED = "audit: "
"""Begins the names of families that a sample of the survivors meets. The points that they break count."""
COUNTED = f"family NOT LIKE '{SECOND}%'"

Key = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """The verdict of one attack family on one point.

    Attributes:
        position: row of the point in the evaluated data.
        broken: the referee found it misclassified, inside ball and box.
        inside: ball and box hold, whatever the prediction.
        margin: largest wrong logit minus the right one at x_adv.
        x_adv: ``encode`` of the adversarial image of a broken point, else None.
    """

    position: int
    broken: bool
    inside: bool
    margin: float
    x_adv: bytes | None


@dataclass(frozen=True)
class Verdict:
    """A family's findings at a point: whether it is broken, and the margin of the best attempt."""

    broken: bool
    margin: float


class Store:
    """Use as ``with Store(path, key) as store``; the file is created if need be and locked against other processes.

    Args:
        path: the file; its directory exists.
        key: everything that the verdicts depend on, JSON values by the name that a message would use.

    Raises:
        RunError: the file is of another evaluation (the differing fields are named), damaged, in use by another
            process, or cannot be written. Verdicts that were committed before stay.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path = path
        self.key = plain(key)
        self._connection: sqlite3.Connection

    def __enter__(self) -> Self:
        with self._translated(), writing(self.path):
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            with self._translated():
                self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                with self._transaction():
                    self._open()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def clean(self) -> dict[int, bool]:
        """Clean verdicts so far: position to right or wrong."""
        return {position: bool(correct) for position, correct in self._read("SELECT position, correct FROM clean")}

    def add_clean(self, positions: Iterable[int], correct: Iterable[bool], margins: Iterable[float]) -> None:
        """Commit clean verdicts."""
        with self._translated(), self._transaction():
            self._insert("clean", zip(positions, map(int, correct), margins, strict=True))

    def families(self) -> list[str]:
        """The names of all families that have verdicts here, sorted."""
        return [family for (family,) in self._read("SELECT DISTINCT family FROM verdicts ORDER BY family")]

    def judged(self, norm: str, family: str) -> set[int]:
        """Positions on which this family has its verdict."""
        query = "SELECT position FROM verdicts WHERE norm = ? AND family = ?"
        return {position for (position,) in self._read(query, norm, family)}

    def broken(self, norm: str, family: str | None = None) -> set[int]:
        """Positions broken in this norm, by one family or by any."""
        chosen = COUNTED if family is None else "family = ?"
        query = f"SELECT DISTINCT position FROM verdicts WHERE norm = ? AND {chosen} AND broken = 1"
        return {position for (position,) in self._read(query, norm, *([] if family is None else [family]))}

    def broken_earlier(self, threats: Sequence[Threat]) -> dict[Norm, set[int]]:
        """Positions that earlier evaluations of the same model broke, by norm."""
        query = f"SELECT position FROM verdicts WHERE norm = ? AND family LIKE '{EARLIER}%' AND broken = 1"
        return {threat.norm: {position for (position,) in self._read(query, threat.norm)} for threat in threats}

    def broken_before_audit(self, norms: Sequence[Norm]) -> dict[Norm, set[int]]:
        """Positions that the protocol's own rounds and earlier evaluations broke, by norm."""
        query = f"""SELECT position FROM verdicts WHERE norm = ? AND {COUNTED} AND broken = 1
                    AND family NOT LIKE '{AUDITED}%' AND family NOT LIKE '{EXTERNAL}%'"""
        return {norm: {position for (position,) in self._read(query, norm)} for norm in norms}

    def verdicts(self, norm: str, family: str) -> dict[int, Verdict]:
        """The verdicts of one family, by position."""
        query = "SELECT position, broken, margin FROM verdicts WHERE norm = ? AND family = ?"
        return {position: Verdict(bool(broken), margin) for position, broken, margin in self._read(query, norm, family)}

    def clean_margins(self) -> dict[int, float]:
        """Margin (largest wrong logit minus the right one) of each image as it is, by position."""
        return dict(self._read("SELECT position, margin FROM clean"))

    def outside(self, norm: str) -> int:
        """How many proposals of this norm's attacks left the ball or the box."""
        query = f"SELECT count(*) FROM verdicts WHERE norm = ? AND inside = 0 AND {COUNTED}"
        return int(self._read(query, norm)[0][0])

    def ties(self, width: float) -> int:
        """How many verdicts, clean ones included, have a margin within ``width`` of zero."""
        query = f"""SELECT (SELECT count(*) FROM verdicts WHERE abs(margin) <= ?1 AND {COUNTED})
                        + (SELECT count(*) FROM clean WHERE abs(margin) <= ?1)"""
        return int(self._read(query, width)[0][0])

    def adversarial(self, norm: str) -> Iterator[tuple[int, bytes]]:
        """Position and encoded x_adv of each point broken in this norm, by position."""
        query = f"SELECT x_adv FROM verdicts WHERE norm = ? AND position = ? AND broken = 1 AND {COUNTED}"
        for position in sorted(self.broken(norm)):
            yield position, self._read(query, norm, position)[0][0]

    def witnesses(self, norm: str, family: str) -> Iterator[tuple[int, bytes]]:
        """Position and encoded x_adv of each point that a family broke in this norm."""
        query = "SELECT position, x_adv FROM verdicts WHERE norm = ? AND family = ? AND broken = 1 ORDER BY position"
        yield from self._read(query, norm, family)

    def witness(self, norm: str, family: str, position: int) -> bytes:
        """The encoded x_adv of one point that a family broke in this norm."""
        query = "SELECT x_adv FROM verdicts WHERE norm = ? AND family = ? AND position = ?"
        return bytes(self._read(query, norm, family, position)[0][0])

    def spent(self) -> dict[tuple[str, str], int]:
        """Evaluations of all sessions, by norm and family."""
        query = "SELECT norm, family, sum(evaluations) FROM spent GROUP BY norm, family"
        return {(norm, family): round(total) for norm, family, total in self._read(query)}

    def add(
        self, norm: str, family: str, rows: Iterable[Row], session: str | None = None, evaluations: float = 0
    ) -> None:
        """Commit a batch of verdicts, all or none.

        Args:
            session: a name for one run of the family; ``evaluations`` is its spending until now.
        """
        with self._translated(), self._transaction():
            self._insert(
                "verdicts",
                [(norm, family, row.position, int(row.broken), int(row.inside), row.margin, row.x_adv) for row in rows],
            )
            if session is not None:
                spent = (norm, family, session, evaluations)
                self._connection.execute("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)", spent)

    def merge(self, other: "Store") -> None:
        """Take over the verdicts that another store of the same key has and this one lacks, in one transaction."""
        with self._translated(), self._transaction():
            for table, columns in (("clean", 4), ("verdicts", 8), ("spent", 4), ("repaired", 1)):
                places = ", ".join("?" * columns)
                rows = other._connection.execute(f"SELECT * FROM {table}")
                self._connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", rows)

    def measures(self) -> dict[int, str]:
        """The text that another kind of evaluation (intermediate-q) kept for each position."""
        return dict(self._read("SELECT position, value FROM measures"))

    def add_measures(self, rows: Iterable[tuple[int, str]]) -> None:
        """Commit a batch of them, all or none."""
        with self._translated(), self._transaction():
            self._insert("measures", rows)

    def repaired(self) -> int:
        """How many rows were found damaged and taken out, so that their points are attacked again."""
        return int(self._read("SELECT count(*) FROM repaired")[0][0])

    def seconds(self) -> float:
        """Time spent by all sessions of this evaluation that ended well or were interrupted politely."""
        return float(self._read("SELECT coalesce(sum(seconds), 0) FROM sessions")[0][0])

    def add_seconds(self, seconds: float) -> None:
        """Commit the duration of a session."""
        with self._translated(), self._transaction():
            self._connection.execute("INSERT INTO sessions VALUES (?)", (seconds,))

    def _insert(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        places = ", ".join("?" * (CHECKED[table] + 1))
        self._connection.executemany(f"INSERT INTO {table} VALUES ({places})", [(*row, checksum(*row)) for row in rows])

    def _sweep(self) -> None:
        """Take out every row whose checksum does not hold, or which has no checksum and contradicts itself."""
        for table, columns in CHECKED.items():
            rows = self._connection.execute(f"SELECT rowid, * FROM {table}")
            bad = [rowid for rowid, *row in rows if not _is_sound(table, row[:columns], row[columns])]
            self._connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(rowid,) for rowid in bad])
            self._connection.executemany("INSERT INTO repaired VALUES (?)", [(table,)] * len(bad))

    def _require_whole(self) -> None:
        """Raise DatabaseError if the pages do not fit together; an index alone is made anew from its table."""
        if self._connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",):
            return
        self._connection.execute("REINDEX")
        if self._connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages do not fit together")

    def _open(self) -> None:
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        for statement in TABLES.split(";"):
            self._connection.execute(statement)
        for table in CHECKED:
            if "checksum" not in {name for _, name, *_ in self._connection.execute(f"PRAGMA table_info({table})")}:
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT")
        there = dict(self._connection.execute("SELECT field, value FROM key"))
        if not there:
            self._connection.executemany("INSERT INTO key VALUES (?, ?)", self.key.items())
        elif fields := differing(there, self.key):
            pairs = [f"{name}: {_short(there.get(name))} there, {_short(self.key.get(name))} here" for name in fields]
            raise RunError(f"{self.path} holds another evaluation and is left alone; it differs in {'; '.join(pairs)}")
        self._require_whole()
        self._sweep()

    def _read(self, query: str, *values: object) -> list[Any]:
        with self._translated():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(f"verdict store {self.path}: {_explain(error)}") from error


def checksum(*row: object) -> str:
    """Hash of a row's values: whole numbers, floats (to the bit), texts, bytes or None."""
    shown = [value.hex() if isinstance(value, float | bytes) else value for value in row]
    return hashlib.blake2b(repr(shown).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _is_sound(table: str, row: Sequence[Any], stored: object) -> bool:
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


def plain(key: Key) -> dict[str, str]:
    """The key as canonical JSON texts by field, with the store's schema as one more field."""
    return {field: json.dumps(value, sort_keys=True) for field, value in {"schema": SCHEMA, **key}.items()}


def digest(key: Key) -> str:
    """Hash of a key, for file names."""
    return hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()


def differing(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The fields in which two keys (as ``plain`` gives them) differ; what the data are called is none."""
    fields = dict.fromkeys([*here, *there])
    return [field for field in fields if there.get(field) != here.get(field) and field not in NAMES]


def place(folder: Path, stem: str, key: Key) -> Path:
    """The store of a key in a folder, made under whatever name of the data; else the path of a new one.

    Args:
        stem: how the names of such stores begin, e.g. ``fast-500``.
    """
    short = digest(key)[:12]
    stores = sorted(folder.glob(f"{stem}-{'?' * len(short)}.sqlite"))  # and none of a single process
    made = (path for path in stores if not differing(read_key(path), plain(key)))
    return next(made, folder / f"{stem}-{short}.sqlite")


def read_key(path: Path) -> dict[str, str]:
    """The key of a store that nobody holds open; empty if no key can be read."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            return dict(connection.execute("SELECT field, value FROM key"))
        finally:
            connection.close()
    except sqlite3.Error:
        return {}


def encode(x_adv: Tensor, x: Tensor) -> bytes:
    """Pack one float32 image losslessly: the bits that differ from ``x``, grouped by byte, deflated."""
    changed = _bits(x_adv) ^ _bits(x)
    return zlib.compress(changed.view(np.uint8).reshape(-1, 4).T.tobytes(), 1)


def decode(packed: bytes, x: Tensor) -> Tensor:
    """The image that ``encode`` packed beside the same ``x``, bit for bit."""
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(4, -1)
    bits = np.ascontiguousarray(planes.T).view(np.uint32).reshape(-1) ^ _bits(x)
    return torch.from_numpy(bits.view(np.float32).reshape(tuple(x.shape)))


def _bits(image: Tensor) -> np.ndarray:
    return image.contiguous().numpy().reshape(-1).view(np.uint32)


def _short(value: str | None) -> str:
    text = "nothing" if value is None else value.strip('"')
    return text if len(text) <= 60 else f"{text[:24]}...{text[-24:]}"


def _explain(error: sqlite3.Error) -> str:
    """The advice for an error of SQLite's."""
    text, code = str(error), getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"cannot write ({text}). What was committed stays: free some space and run the same command again"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another process is using it; wait until it ends, or stop it"
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return f"cannot be opened for writing ({text}); check the permissions of its directory"
    return f"it is damaged ({text}). Move it away and run the same command again to start afresh"
