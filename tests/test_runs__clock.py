"""A wall clock that goes backwards or stands still changes names and the order of lists, and nothing else."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import robust
from safetensors.torch import load_file

from robustctl import files, locks, runs
from robustctl.results import union as results

ROOT = Path(__file__).parents[1]
TINY = ("--data", "digits", "--n", "12", "--attack", "fast", "--precision", "float32", "--norms", "linf")


Moment = time.struct_time
_STRFTIME = time.strftime


class Backwards:
    """Clocks of the wall: a day earlier at every look. What counts seconds is left alone."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        """As ``time.time``."""
        self.now -= 86_400
        return self.now

    def strftime(self, form: str, moment: Moment | None = None) -> str:
        """As ``time.strftime``."""
        return _STRFTIME(form, moment or time.gmtime(self.time()))


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backwards]:
    clock = Backwards()
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(time, "time_ns", lambda: int(clock.time() * 1e9))
    monkeypatch.setattr(time, "strftime", clock.strftime)
    yield clock


def test_only_names_dates_and_lists_ask_the_wall_clock() -> None:
    """Everything else that measures or waits uses a clock that never goes backwards."""
    asks = re.compile(r"time\.(time|time_ns|strftime|gmtime|localtime|ctime)\(|datetime\.(now|today)|st_[mca]time")
    found = {
        path.relative_to(ROOT / "robustctl").as_posix(): {one[0] for one in asks.finditer(path.read_text("utf-8"))}
        for path in sorted((ROOT / "robustctl").rglob("*.py"))
    }
    assert {name: sorted(what) for name, what in found.items() if what} == {
        "evaluation/verification.py": ["time.gmtime(", "time.strftime("],  # the date of a verdict
        "runs.py": ["time.strftime("],  # the name of a run
        "workflows/evaluate.py": ["st_mtime"],  # the newest of the stores that have evaluated a model
        "workflows/leaderboard.py": ["st_mtime"],  # the order of what is told beside a row
        "workflows/named_results.py": ["st_mtime"],  # the order of columns
        "workflows/publish_run.py": ["st_mtime"],  # the order of columns
        "workflows/run_record.py": ["time.strftime("],  # the date of a run
    }


def test_a_training_that_stops_and_goes_on_ends_with_the_same_weights(backwards: Backwards, tmp_path: Path) -> None:
    train = ("-q", "finetune", "digits-linf", "--recipe", "digits/to-linf", "--data", "digits")
    assert robust(*train, "--max-steps", 3, "--out", tmp_path / "once") == 0
    assert robust(*train, "--max-steps", 2, "--out", tmp_path / "twice") == 0
    assert robust("-q", "finetune", "--resume", "--out", tmp_path / "twice", "--max-steps", 3) == 0
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "twice"))
    assert all(once[name].equal(twice[name]) for name in once)
    assert runs.Run(tmp_path / "twice").status() == "finished"


def test_an_evaluation_goes_on_where_it_was(backwards: Backwards, tmp_path: Path) -> None:
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    assert robust("-q", "eval", "digits-linf", *TINY, "--json", first) == 0
    assert robust("-q", "eval", "digits-linf", *TINY, "--json", again) == 0
    one, other = results.read(first), results.read(again)
    assert one.points == other.points and one.seconds >= 0 and other.seconds >= one.seconds


def test_runs_that_begin_at_one_moment_or_earlier_than_the_last_have_names_of_their_own(backwards: Backwards) -> None:
    paths = [runs.create("m", "r").path for _ in range(3)]
    backwards.now += 3 * 86_400
    paths += [runs.create("m", "r").path for _ in range(3)]  # the same moments again
    assert len(set(paths)) == 6


def test_a_lock_is_waited_for_as_long_as_was_asked_and_litter_is_told_by_its_process_alone(
    backwards: Backwards, tmp_path: Path
) -> None:
    lock = tmp_path / "x.lock"
    start = time.monotonic()
    with locks.held(lock, "busy"), pytest.raises(runs.RequestError, match="busy"), locks.held(lock, "busy", 0.2):
        pass
    assert 0.2 <= time.monotonic() - start < 20
    mine = tmp_path / f".model.{files.owner()}-12345678.part"
    dead = tmp_path / f".model.{files.owner().rpartition('-')[0]}-b00000001-12345678.part"
    for path in (mine, dead):
        path.write_bytes(b"")
    files.write_text(tmp_path / "a", "text")
    assert mine.exists() and not dead.exists()
