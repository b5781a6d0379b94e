"""One process at a time holds a lock, and what a file system cannot do is said."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from robustctl import locks
from robustctl.errors import RequestError


def test_a_lock_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locks.held(lock, "busy"):
        assert locks.is_held(lock)
        with pytest.raises(RequestError, match="busy"), locks.held(lock, "busy", 0):
            pass
    assert not locks.is_held(lock)


def test_a_file_system_without_locks_is_said_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with locks.held(tmp_path / "lock", "busy"):
        pass
    assert "this file system has no locks" in capsys.readouterr().err


def test_a_file_system_on_which_everybody_gets_the_lock_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with locks.held(tmp_path / "lock", "busy"):
        pass
    assert "this file system has no locks" in capsys.readouterr().err


def test_who_waits_for_a_lock_is_told_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.01)
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        with locks.held(tmp_path / "lock", "mine is being changed"):
            pass

    other = threading.Thread(target=wait)
    with locks.held(tmp_path / "lock", "busy"):
        other.start()
        begun.wait()
        while "mine is being changed; waiting" not in capsys.readouterr().err:
            time.sleep(0.01)
    other.join()
