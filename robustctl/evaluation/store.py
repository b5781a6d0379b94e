"""The verdict store: one SQLite file an evaluation, committed batch by batch, keyed by everything that was measured."""

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
from robustctl.evaluation import rescue
from robustctl.evaluation.store_key import SHORT, Key, difference, differing, digest, mark, plain
from robustctl.evaluation.store_tables import (
    CHECKED,
    COLUMNS,
    MOST_SPENT,
    checksum,
    is_plausible,
    is_sound,
    make_tables,
)
from robustctl.files import writing
from robustctl.locks import held
from robustctl.progress import say
from robustctl.threats import Norm, Threat

EXTERNAL, EARLIER, SECOND = "external: ", "earlier: ", "second opinion: "
"""Begin the names of families that are not the protocol's own: attacks from outside, verdicts of earlier evaluations of
the same model, and attacks that only look at a sample. The points that the last ones break are reported, not
counted."""
AUDITED = "audit: "
"""Begins the names of families that a sample of the survivors meets. The points that they break count."""
COUNTED = f"family NOT LIKE '{SECOND}%'"


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
        self._asked = key
        self.key = plain(key)
        self._connection: sqlite3.Connection

    def __enter__(self) -> Self:
        with self._translated(), writing(self.path):
            try:
                self._connect()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite may quote what is in the file
                fault = error if isinstance(error, sqlite3.DatabaseError) else sqlite3.DatabaseError(ascii(error))
                if not _is_damage(fault):
                    raise
                self._rescue(fault)
        return self

    def _connect(self) -> None:
        self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            with self._transaction():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _rescue(self, error: sqlite3.DatabaseError) -> None:
        """Put a new store with the sound rows in place of a damaged one, which is kept beside it, and open it."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        fresh = self.path.with_name(f".{self.path.name}.part")
        damaged = self.path.with_name(f"{self.path.name}.damaged")
        with held(lock, f"verdict store {self.path}: {BUSY}", 0):
            fresh.unlink(missing_ok=True)  # of a rescue that was killed
            try:
                with Store(fresh, self._asked) as new:
                    rows = rescue.sound_rows(self.path, fresh, COLUMNS)
                    self._require_ours(rows, error)
                    if not new._take(rows):
                        raise error
                rescue.keep_beside(self.path, damaged)
                fresh.replace(self.path)  # at once: there is a store at every moment, whatever stops this process
            finally:
                fresh.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            self._connect()
        say(
            f"verdict store {self.path} was damaged ({_line(error)}): its sound rows are taken over, the others are "
            f"attacked again; the damaged file is kept as {damaged.name}"
        )

    def _require_ours(self, rows: rescue.Rows, error: sqlite3.DatabaseError) -> None:
        """Raise unless a damaged store is this one, by the mark in its header, by its key, or else by its name."""
        if rescue.mark_of(self.path) == mark(self.key):
            return
        if rows["key"]:
            self._require_same({str(field): str(value) for field, value in rows["key"]})
        elif digest(self._asked)[:SHORT] not in self.path.name:
            raise error

    def _take(self, rows: rescue.Rows) -> int:
        """Take over the sound rows of a damaged store; returns how many verdicts they are."""
        with self._transaction():
            for table, columns in CHECKED.items():
                sound = [row for row in rows[table] if is_sound(table, row[:columns], row[columns])]
                places = ", ".join("?" * (columns + 1))
                self._connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", sound)
            for table in ("spent", "sessions", "repaired"):
                sound = [row for row in rows[table] if is_plausible(table, row)]
                places = ", ".join("?" * COLUMNS[table])
                self._connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", sound)
            self._connection.execute("INSERT INTO repaired VALUES ('file')")
            counts = [self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in CHECKED]
        return sum(counts)

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
        """How many places were found damaged: rows that were taken out, so that their points are attacked again, and
        files whose sound rows were taken over."""
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
            bad = [rowid for rowid, *row in rows if not is_sound(table, row[:columns], row[columns])]
            self._connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(rowid,) for rowid in bad])
            self._connection.executemany("INSERT INTO repaired VALUES (?)", [(table,)] * len(bad))
        for table, column in (("spent", "evaluations"), ("sessions", "seconds")):  # they are only reported
            sane = f"typeof({column}) IN ('real', 'integer') AND {column} BETWEEN 0 AND {MOST_SPENT}"
            self._connection.execute(f"DELETE FROM {table} WHERE NOT ({sane})")

    def _require_whole(self) -> None:
        """Raise DatabaseError if the pages do not fit together; an index alone is made anew from its table."""
        if self._connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",):
            return
        self._connection.execute("REINDEX")
        if self._connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages do not fit together")

    def _open(self) -> None:
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        make_tables(self._connection)
        self._own_key()
        self._require_whole()
        self._sweep()

    def _own_key(self) -> None:
        """Write the key into a new store; one that is there must be this one, or have been damaged since."""
        there = dict(self._connection.execute("SELECT field, value FROM key"))
        own = mark(self.key)
        if there and self._connection.execute("PRAGMA user_version").fetchone() != (own,):
            self._require_same(there)
        if not there or differing(there, self.key):
            self._connection.execute("DELETE FROM key")
            self._connection.executemany("INSERT INTO key VALUES (?, ?)", self.key.items())
        self._connection.execute(f"PRAGMA user_version = {own}")

    def _require_same(self, there: Mapping[str, str]) -> None:
        if text := difference(there, self.key):
            raise RunError(
                f"{self.path} holds another evaluation and is left alone; it differs in {text}. Move it away and run "
                "the same command again"
            )

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


BUSY = "another process is using it; wait until it ends, or stop it"


def _code(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")


def _line(error: sqlite3.Error) -> str:
    """SQLite's own words on one line: they may quote what is in a damaged file."""
    return " ".join(str(error).split())[:120]


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    known = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_READONLY")
    return not _code(error).startswith((*known, "SQLITE_PERM", "SQLITE_NOMEM"))


def _explain(error: sqlite3.Error) -> str:
    """The advice for an error of SQLite's."""
    text, code = _line(error), _code(error)
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"cannot write ({text}). What was committed stays: free some space and run the same command again"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return BUSY
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return f"cannot be opened for writing ({text}); check the permissions of its directory"
    return f"it is damaged ({text}). Move it away and run the same command again to start afresh"
