"""Lock files: of several processes one at a time changes something. No torch here."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robustctl.errors import RequestError, RunError
from robustctl.files import writing
from robustctl.progress import say

if TYPE_CHECKING:
    from filelock import BaseFileLock

PATIENCE_SECONDS = 2.0
"""After so long it is said that another process is waited for."""


@contextmanager
def held(lock: Path, busy: str, seconds: float = -1, mode: int | None = None) -> Iterator[None]:
    """Hold a lock file while the block runs. It is free again however this process ends.

    Args:
        busy: the message if another process holds it for longer than ``seconds``; -1 waits for ever, and says so.
        mode: permissions of the lock file, where other users hold it too.

    Raises:
        RequestError: another process holds it.
        RunError: the lock cannot be written.
    """
    from filelock import FileLock, Timeout

    one = FileLock(lock) if mode is None else FileLock(lock, mode=mode)
    try:
        with writing(lock):
            _acquire(one, busy, seconds)
            works = is_held(lock)  # on some network file systems everybody gets it
    except Timeout:
        raise RequestError(busy) from None
    except (RunError, NotImplementedError) as error:
        if not _has_no_locks(error):
            raise
        works = False
    if not works:
        say(f"{lock.parent}: this file system has no locks; let no two commands write there at the same time")
    try:
        yield
    finally:
        one.release()


def _acquire(one: "BaseFileLock", busy: str, seconds: float) -> None:
    from filelock import Timeout

    if seconds < 0:
        try:
            one.acquire(timeout=PATIENCE_SECONDS)
            return
        except Timeout:
            say(f"{busy}; waiting for it")
    one.acquire(timeout=seconds)


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file now."""
    from filelock import FileLock, Timeout

    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError) as error:  # a directory of another user: what is recorded stands
        return not _has_no_locks(error)


def _has_no_locks(error: BaseException) -> bool:
    """Whether the file system, NFS perhaps, cannot lock at all."""
    cause = error.__cause__ if isinstance(error, RunError) else error
    numbers = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
    return isinstance(cause, NotImplementedError) or (isinstance(cause, OSError) and cause.errno in numbers)
