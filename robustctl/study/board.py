"""The display of a study while it runs: one live table on a terminal, plain lines in a log file. No torch here."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustctl.progress import SECONDS_BETWEEN_PLAIN_LINES, duration, replaced, say
from robustctl.terminal import plain

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Row:
    """A step that runs: its name, its device, how far it is in words, its seconds so far."""

    name: str
    device: str
    far: str
    seconds: float


@dataclass(frozen=True)
class Counts:
    """How many steps are done, left and failed, and the seconds that are left if they are known."""

    done: int
    left: int
    failed: int
    seconds_left: float | None

    def line(self, running: int) -> str:
        """For people, in one line."""
        parts = [f"{self.done} done", f"{running} running", f"{self.left} left"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"about {duration(self.seconds_left)} left"] if self.seconds_left is not None else []
        return "study: " + ", ".join(parts)


class Board:
    """Shows the state of a study. This one writes a line now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, counts: Counts, rows: Sequence[Row]) -> None:
        """Show the present state."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_PLAIN_LINES:
            self._last = time.monotonic()
            say(counts.line(len(rows)))
            for row in rows:
                say(f"  {row.name}: {row.far}, {duration(row.seconds)}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        say(line)


class _Live(Board):
    def __init__(self, live: "object") -> None:
        super().__init__()
        self.live = live

    def show(self, counts: Counts, rows: Sequence[Row]) -> None:
        self.live.update(_table(counts, rows))  # type: ignore[attr-defined]


@contextmanager
def board() -> Iterator[Board]:
    """The board that suits stderr, while the block runs."""
    if not sys.stderr.isatty() or "ROBUSTCTL_QUIET" in os.environ:
        yield Board()
        return
    from rich.console import Console
    from rich.live import Live

    with replaced(), Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield _Live(live)


def _table(counts: Counts, rows: Sequence[Row]) -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("running", "on", "so far", "for"):
        table.add_column(title, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(text)) for text in (row.name, row.device, row.far, duration(row.seconds))))
    return Group(Text(counts.line(len(rows))), table)
