"""A damaged verdict store loses at most the rows that were damaged."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from robustctl.errors import RunError
from robustctl.evaluation import rescue
from robustctl.evaluation.store import Row, Store
from robustctl.evaluation.store_tables import COLUMNS

KEY = {"robustctl": "1", "weights": "abc", "threats": {"linf": 0.1}, "seed": 0}
N = 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of 200 points, some pages long."""
    rng = random.Random(0)
    with Store(tmp_path / "s.sqlite", KEY) as store:
        store.add_clean(range(N), [True] * N, [-1.0] * N)
        store.add("linf", "a", [Row(i, True, True, 0.5, rng.randbytes(900)) for i in range(N)], "one", 7)
    return tmp_path / "s.sqlite"


def _write(path: Path, at: int, content: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(at)
        file.write(content)


def _found(path: Path) -> tuple[int, int, int]:
    """Clean and broken points, and places that were repaired."""
    with Store(path, KEY) as store:
        return len(store.clean()), len(store.broken("linf")), store.repaired()


def test_pages_that_were_overwritten_cost_their_own_rows_alone(path: Path) -> None:
    size = path.stat().st_size
    _write(path, size // 2 // 4096 * 4096, b"\xff" * 3 * 4096)
    clean, broken, repaired = _found(path)
    assert clean == N and N - 3 * 5 <= broken < N and repaired
    assert path.with_name("s.sqlite.damaged").stat().st_size == size
    assert _found(path) == (clean, broken, repaired)
    assert {one.name for one in path.parent.iterdir()} == {"s.sqlite", "s.sqlite.damaged"}


def test_a_store_that_was_cut_off_keeps_its_beginning(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    clean, broken, _ = _found(path)
    assert clean > 0 and N // 3 < broken < N


@pytest.mark.parametrize("part", [slice(0, 16), slice(40, 100), slice(100, 4096), slice(0, 4096)])
def test_what_describes_the_tables_may_be_lost(path: Path, part: slice) -> None:
    _write(path, part.start, b"\x55" * (part.stop - part.start))
    clean, broken, _ = _found(path)
    assert (clean, broken) == (N, N)


def test_a_damaged_key_is_written_anew_and_nothing_else_is_lost(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE key SET value = '\"abd\"' WHERE field = 'weights'")
    assert _found(path)[:2] == (N, N)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_store_of_another_evaluation_under_this_name_is_left_alone(path: Path, damaged: bool) -> None:
    if damaged:
        _write(path, path.stat().st_size // 2 // 4096 * 4096, b"\xff" * 4096)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"another evaluation.*weights: abc there, abd here.*Move it away"):
        Store(path, KEY | {"weights": "abd"}).__enter__()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_store_whose_log_of_writes_is_missing_opens(path: Path) -> None:
    _write(path, 18, b"\x02\x02")  # says that a file s.sqlite-wal holds the newest pages
    assert _found(path) == (N, N, 0)


def test_rows_that_only_count_work_never_stop_an_evaluation(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE spent SET evaluations = 'x'")
        connection.execute("INSERT INTO sessions VALUES (-1e300)")
    with Store(path, KEY) as store:
        assert store.spent() == {} and store.seconds() == 0


def test_a_second_process_that_finds_the_damage_too_is_told_to_wait(path: Path) -> None:
    from robustctl.locks import held

    _write(path, path.stat().st_size // 2 // 4096 * 4096, b"\xff" * 4096)
    with held(path.with_name(".s.sqlite.lock"), "busy"), pytest.raises(Exception, match="another process"):
        _found(path)


def test_a_kill_in_the_middle_of_a_repair_leaves_a_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the damaged file that is kept and the new one in its place."""
    _write(path, path.stat().st_size // 2 // 4096 * 4096, b"\xff" * 4096)
    real = Path.replace

    def killed(one: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return real(one, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        _found(path)
    assert path.is_file()
    clean, broken, repaired = _found(path)
    assert clean == N and N - 5 <= broken < N and repaired


def test_what_a_killed_repair_left_does_not_stop_the_next_and_work_that_was_spent_stays(path: Path) -> None:
    _write(path, path.stat().st_size // 2 // 4096 * 4096, b"\xff" * 4096)
    path.with_name(f".{path.name}.part").write_bytes(b"half of a store")
    clean, broken, _ = _found(path)
    assert clean == N and N - 5 <= broken < N
    with Store(path, KEY) as store:
        assert store.spent() == {("linf", "a"): 7}


def test_every_row_that_can_be_read_is_read_once(path: Path) -> None:
    _write(path, path.stat().st_size // 2 // 4096 * 4096, b"\xff" * 4096)
    with Store(path.with_name("fresh.sqlite"), KEY):
        pass
    rows = rescue.sound_rows(path, path.with_name("fresh.sqlite"), COLUMNS)
    for table in ("clean", "verdicts"):
        assert len(rows[table]) == len({tuple(row) for row in rows[table]}) > N // 2
