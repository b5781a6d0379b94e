import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustctl.errors import RunError
from robustctl.evaluation import store, store_key
from robustctl.evaluation.store import Row, Store

KEY = {"weights": "abc", "threats": {"linf": 0.1}, "seed": 0}


def rows(positions, broken=True):
    return [Row(position, broken, True, 0.5, b"x" if broken else None) for position in positions]


@given(st.integers(0, 2**31), st.booleans())
def test_an_image_unpacks_bit_for_bit(seed, sparse):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 5, generator=generator)
    noise = torch.randn(x.shape, generator=generator) * 0.1
    x_adv = (x + noise * (torch.rand(x.shape, generator=generator) < 0.1) if sparse else x + noise).clamp(0, 1)
    x_adv[0, 0, 0] = -0.0
    unpacked = store.decode(store.encode(x_adv, x), x)
    assert torch.equal(unpacked.view(torch.int32), x_adv.view(torch.int32))


def test_an_unchanged_image_packs_small():
    x = torch.rand(3, 32, 32)
    assert len(store.encode(x, x)) < 100


def test_committed_verdicts_are_there_again(tmp_path):
    with Store(tmp_path / "s.sqlite", KEY) as first:
        first.add_clean([0, 1, 2], [True, True, False], [-1.0, -2.0, 0.3])
        first.add("linf", "apgd-ce", rows([0]) + rows([1], broken=False))
    with Store(tmp_path / "s.sqlite", KEY) as again:
        assert again.clean() == {0: True, 1: True, 2: False}
        assert again.judged("linf", "apgd-ce") == {0, 1}
        assert again.broken("linf") == {0}
        assert again.broken("l1") == set()
        assert list(again.adversarial("linf")) == [(0, b"x")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": "abd"}, "weights: abc there, abd here"),
        ({"threats": {"linf": 0.2}}, "threats"),
        ({"seed": 1}, "seed"),
    ],
)
def test_a_store_of_another_evaluation_is_refused_and_the_field_named(tmp_path, change, named):
    with Store(tmp_path / "s.sqlite", KEY):
        pass
    with pytest.raises(RunError, match=named), Store(tmp_path / "s.sqlite", KEY | change):
        pass
    assert store_key.digest(KEY) != store_key.digest(KEY | change)


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path):
    with Store(tmp_path / "s.sqlite", KEY) as verdicts:
        verdicts.add("linf", "apgd-ce", rows([3]))
        with pytest.raises(RunError):
            verdicts.add("linf", "apgd-ce", rows([1, 2, 3]))
        assert verdicts.judged("linf", "apgd-ce") == {3}


@pytest.mark.parametrize("damage", [b"this is no database" * 100, None])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, damage):
    path = tmp_path / "s.sqlite"
    if damage is None:
        with Store(path, KEY) as verdicts:
            verdicts.add("linf", "apgd-ce", [Row(i, True, True, 0.0, os.urandom(3000)) for i in range(50)])
        content = bytearray(path.read_bytes())
        content[4096 * 3 : 4096 * 20] = os.urandom(4096 * 17)
        damage = bytes(content)
    path.write_bytes(damage)
    with pytest.raises(RunError, match=r"s\.sqlite.*damaged"), Store(path, KEY):
        pass
    assert path.read_bytes() == damage


def test_a_full_disk_keeps_what_was_committed(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path, KEY) as verdicts:
        verdicts.add("linf", "apgd-ce", rows([0, 1]))
        pages = verdicts._connection.execute("PRAGMA page_count").fetchone()[0]
        verdicts._connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own way of a full disk
        big = [Row(position, True, True, 0.0, os.urandom(20_000)) for position in range(2, 9)]
        with pytest.raises(RunError, match="stays: free some space"):
            verdicts.add("linf", "apgd-ce", big)
    with Store(path, KEY) as again:
        assert again.judged("linf", "apgd-ce") == {0, 1}


def test_two_processes_cannot_use_one_store(tmp_path):
    with Store(tmp_path / "s.sqlite", KEY) as first:
        first.add("linf", "apgd-ce", rows([0]))
        with pytest.raises(RunError, match="another process"), Store(tmp_path / "s.sqlite", KEY):
            pass


def test_a_kill_within_a_commit_leaves_the_store_usable(tmp_path):
    path = tmp_path / "s.sqlite"
    script = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom robustctl.evaluation.store import Row, Store\n"
        f"store = Store(Path(sys.argv[1]), {KEY!r}).__enter__()\n"
        "store.add('linf', 'a', [Row(0, False, True, 0.0, None)])\n"
        "def rows():\n"
        "    for i in range(1, 9):\n"
        "        if i == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield Row(i, True, True, 0.0, os.urandom(2_000_000))\n"
        "store._connection.execute('PRAGMA cache_size = 1')\n"
        "store._connection.execute('BEGIN IMMEDIATE')\n"
        "for row in rows():\n"
        "    store._connection.execute('INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?)',"
        " ('linf', 'a', row.position, 1, 1, 0.0, row.x_adv, 'x'))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    with Store(path, KEY) as again:
        assert again.judged("linf", "a") == {0}


def test_stores_of_processes_merge_into_one(tmp_path):
    with Store(tmp_path / "a.sqlite", KEY) as a, Store(tmp_path / "b.sqlite", KEY) as b:
        a.add_clean([0], [True], [-1.0])
        b.add_clean([1], [False], [1.0])
        a.add("l1", "f", rows([0]))
        b.add("l1", "f", rows([0, 2]))
        a.merge(b)
        assert a.clean() == {0: True, 1: False}
        assert a.broken("l1") == {0, 2}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere"), Store(tmp_path / "nowhere" / "s.sqlite", KEY):
        pass


def test_the_key_of_a_store_can_be_read_without_opening_it(tmp_path):
    with Store(tmp_path / "s.sqlite", KEY):
        pass
    assert store_key.differing(store_key.read_key(tmp_path / "s.sqlite"), store_key.plain(KEY)) == []
    assert store_key.read_key(tmp_path / "none.sqlite") == {}
    assert sqlite3.sqlite_version_info >= (3, 24)


def _filled(path: Path) -> None:
    with Store(path, KEY) as store:
        store.add_clean([0, 1, 2], [True, True, False], [-1.0, -0.5, 0.25])
        store.add("l2", "a", [Row(0, True, True, 0.5, b"abc"), Row(1, False, True, -0.1, None)])


def test_a_flipped_bit_of_any_row_takes_the_row_out_or_is_reported(tmp_path: Path) -> None:
    _filled(tmp_path / "sound.sqlite")
    sound, rng, taken_out = (tmp_path / "sound.sqlite").read_bytes(), random.Random(0), 0
    with Store(tmp_path / "sound.sqlite", KEY) as store:
        verdicts, clean = store.verdicts("l2", "a"), store.clean()
    for number in range(60):
        flipped = bytearray(sound)
        flipped[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(flipped)
        with Store(path, KEY) as store:
            assert store.verdicts("l2", "a").items() <= verdicts.items() and store.clean().items() <= clean.items()
            lost = len(verdicts) + len(clean) - len(store.verdicts("l2", "a")) - len(store.clean())
            assert lost <= store.repaired() <= lost + 1
            taken_out += lost
    path = tmp_path / "row.sqlite"
    path.write_bytes(sound)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE verdicts SET broken = 0 WHERE position = 0")
        connection.execute("UPDATE clean SET margin = -0.75 WHERE position = 1")
    with Store(path, KEY) as store:
        assert store.judged("l2", "a") == {1} and set(store.clean()) == {0, 2} and store.repaired() == 2


@pytest.mark.parametrize(
    "change",
    ["broken = 0 WHERE position = 0", "margin = -0.5 WHERE position = 0", "inside = 0 WHERE position = 0",
     "broken = 1 WHERE position = 1", "margin = 'x' WHERE position = 1", "x_adv = NULL WHERE position = 0"],
)  # fmt: skip
def test_rows_of_an_older_store_that_contradict_themselves_are_taken_out(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.sqlite"
    _filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE verdicts DROP COLUMN checksum")
    with Store(path, KEY) as store:
        assert store.repaired() == 0 and store.judged("l2", "a") == {0, 1}
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE verdicts SET {change}")
    with Store(path, KEY) as store:
        assert store.repaired() == 1 and len(store.judged("l2", "a")) == 1


def test_the_images_of_a_norm_are_read_by_an_index_not_by_scanning_all_verdicts(tmp_path):
    with Store(tmp_path / "s.sqlite", {}) as store:
        asked: list[str] = []
        store.add("l2", "a", [Row(3, True, True, 0.1, b"x"), Row(5, True, True, 0.1, b"y")])
        store._connection.set_trace_callback(asked.append)
        assert [position for position, _ in store.adversarial("l2")] == [3, 5]
        store._connection.set_trace_callback(None)
        by_position = [query for query in asked if "position = " in query]
        assert len(by_position) == 2
        for query in by_position:
            plan = store._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "by_position (norm=? AND position=?)" in str(plan)
