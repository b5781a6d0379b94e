"""One progress line on stderr: what, how far, time left. No torch here."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from robustctl import terminal

SECONDS_BETWEEN_PLAIN_LINES = 30.0


class Advance(Protocol):
    """Report ``n`` more units done, with an optional short note such as ``robust 41.2 %``.

    ``total`` is given if only the work itself has told it.
    """

    def __call__(self, n: int, note: str = "", total: int | None = None) -> None: ...


class Megabytes:
    """Counts bytes and reports whole megabytes."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.bytes = 0

    def announce(self, size: int) -> None:
        """Say how many bytes there will be, if that was not known before."""
        self.advance(0, total=round(size / 1e6))

    def __call__(self, n: int) -> None:
        before = self.bytes // 1_000_000
        self.bytes += n
        self.advance(self.bytes // 1_000_000 - before)


def say(line: str) -> None:
    """Print one line on stderr, unless ``--quiet``."""
    if "ROBUSTCTL_QUIET" not in os.environ:
        terminal.tell(line)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(description: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Show progress through ``total`` units (None: not known yet) while the block runs.

    ``done`` of them were done before: the time left follows from the others.
    A terminal gets a live bar; a log file gets a plain line every half minute; ``--quiet`` silences both.
    """
    if "ROBUSTCTL_QUIET" in os.environ:
        yield lambda n, note="", total=None: None
    elif sys.stderr.isatty():
        with _bar(description, total, done) as advance:
            yield advance
    else:
        yield _plain(description, total, done)


@contextmanager
def _bar(description: str, total: int | None, before: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(terminal.plain(description)), total=total, completed=before, note="")

        def advance(n: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, advance=n, note=escape(terminal.plain(note)), total=total)

        yield advance


def _plain(description: str, whole: int | None, before: int) -> Advance:
    start = last = time.monotonic()
    done = before

    def advance(n: int, note: str = "", total: int | None = None) -> None:
        nonlocal done, last, whole
        whole = total or whole
        done += n
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_PLAIN_LINES or done == before:
            return
        last = now
        seconds = (now - start) / (done - before)
        left = f"/{whole}, about {seconds * (whole - done):.0f} s left" if whole else ""
        terminal.tell(f"{description}: {done}{left} {note}".rstrip())

    return advance
