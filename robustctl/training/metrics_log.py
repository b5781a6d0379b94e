"""The file ``metrics.jsonl`` of a run: one line per measurement of the training."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robustctl.files import writing

METRICS = "metrics.jsonl"

Listener = Callable[[dict[str, Any]], None]
"""Is called with every line of ``metrics.jsonl``, in the leading process."""


class MetricsLog:
    """Appends lines to ``metrics.jsonl`` and hands each of them to the listeners.

    Args:
        directory: of the run; it exists.
        leads: whether this process is the one that writes; the others' lines are dropped.
    """

    def __init__(self, directory: Path, listeners: Sequence[Listener], leads: bool) -> None:
        self.path, self.listeners, self.leads = directory / METRICS, listeners, leads

    def write(self, line: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            RunError: no space or no permission.
        """
        if not self.leads:
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for listener in self.listeners:
            listener(line)

    def size(self) -> int:
        """Bytes that are written."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Cut off what is written beyond ``size`` bytes: lines of steps that will be done again."""
        if self.leads and self.path.exists():
            with writing(self.path), self.path.open("rb+") as file:
                file.truncate(size)
