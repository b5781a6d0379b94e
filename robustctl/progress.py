"""One progress line on stderr: what, how far, time left; and a sign of life where there is none. No torch here."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Protocol, cast

from robustctl import terminal

SECONDS_BETWEEN_PLAIN_LINES = 30.0
SECONDS_OF_SILENCE = 1.0
"""A terminal that has shown nothing for so long gets a sign of life."""


class Advance(Protocol):
    """Report ``n`` more units done, with an optional short note such as ``robust 41.2 %``.

    ``total`` is given if only the work itself has told it.
    """

    def __call__(self, n: int, note: str = "", total: int | None = None) -> None: ...


def silent(n: int, note: str = "", total: int | None = None) -> None:
    """An ``Advance`` that shows nothing."""


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
        yield silent
    elif sys.stderr.isatty():
        with _bar(description, total, done) as advance:
            yield advance
    else:
        yield _plain(description, total, done)


class _SignOfLife(threading.Thread):
    """Draws a moving sign while no bar runs and no line was printed for ``SECONDS_OF_SILENCE``.

    A command has stretches that no bar knows: imports, hashing, the first steps of an accelerator. This thread sees
    them all, because every line passes through ``terminal``.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="sign of life")
        self.lock = threading.RLock()
        self.last = time.monotonic()
        self.bars, self.is_drawn = 0, False
        self.over = threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        while not self.over.wait(0.1):
            with self.lock:
                silence = time.monotonic() - self.last
                if self.bars == 0 and silence >= SECONDS_OF_SILENCE and not self.over.is_set():
                    sign = "|/-\\"[int(silence * 10) % 4]
                    self._write(f"\r{sign} working, {silence:.0f} s\x1b[K")
                    self.is_drawn = True

    def clear(self) -> None:
        """Remove the sign: something else is shown now."""
        if not self.is_alive():
            return
        with self.lock:
            self.last = time.monotonic()
            if self.is_drawn:
                self._write("\r\x1b[K")
                self.is_drawn = False

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Something else shows that the command is alive while the block runs."""
        self.clear()
        self.bars += 1
        try:
            yield
        finally:
            self.bars -= 1
            self.clear()

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a terminal that is gone
            sys.stderr.write(text)
            sys.stderr.flush()


_SIGN = _SignOfLife()
terminal.before_a_line(_SIGN.clear)
replaced = _SIGN.replaced


@contextmanager
def sign_of_life() -> Iterator[None]:
    """Never leave a terminal without any sign for two seconds while the block runs; a log file and ``--quiet`` get
    none.
    """
    if sys.stderr.isatty() and "ROBUSTCTL_QUIET" not in os.environ and not _SIGN.is_alive():
        _SIGN.last = time.monotonic()
        _SIGN.start()
    try:
        yield
    finally:
        _SIGN.over.set()
        _SIGN.clear()


@contextmanager
def _bar(description: str, total: int | None, before: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        SpinnerColumn(),  # moves while a batch takes long
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # The note alone gives way in a narrow window.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with (
        replaced(),
        Progress(*columns, console=Console(file=cast("IO[str]", terminal.Told())), transient=True, expand=True) as bar,
    ):
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
