"""The common part of listings and results: headers, order, the width of the terminal, and JSON in a file or on
stdout."""

import json as json_text
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError

STDOUT = Path("-")
NARROWEST = 24
"""A last column that has fewer places left than this begins on a line of its own."""

Json = Annotated[
    Path | None, typer.Option("--json", help="Write JSON to this file; - or nothing after --json is stdout.")
]
Sort = Annotated[str | None, typer.Option("--sort", help="Column to sort by; -COLUMN is the other way round.")]


def require_target(json: Path | None) -> None:
    """Raise RequestError now, and not after the work, if ``--json`` names a place that cannot be written."""
    if json is None or json == STDOUT:
        return
    if json.exists() and not json.is_file():
        raise RequestError(f"--json {json} is not a file")
    if not json.absolute().parent.is_dir():
        raise RequestError(f"--json {json}: there is no directory {json.absolute().parent}")


def write_json(json: Path, text: str) -> None:
    """Write a JSON text to its target."""
    from robustctl.files import write_text

    if json == STDOUT:
        terminal.show(text.rstrip("\n"))
    else:
        write_text(json, text.rstrip("\n") + "\n")


def save(write: Callable[[Path], object], json: Path | None) -> None:
    """Let ``write`` write a JSON file to the target of ``--json``, if one was named."""
    if json is None:
        return
    if json != STDOUT:
        write(json)
        return
    from robustctl.files import scratch

    with scratch() as folder:
        write(folder / "result.json")
        terminal.show((folder / "result.json").read_text(encoding="utf-8").rstrip("\n"))


def say_table(text: str, json: Path | None) -> None:
    """Print a table for people; on stderr if stdout carries the JSON."""
    if json == STDOUT:
        terminal.tell(text)
    else:
        terminal.show(text)


def listing(
    rows: Sequence[Mapping[str, object]],
    headings: Mapping[str, str],
    json: Path | None,
    sort: str | None,
    shown: Mapping[str, "Sequence[str]"],
) -> None:
    """Print rows under their headings, or as a JSON list.

    Args:
        rows: values by column, as JSON has them. headings: of the columns that people see, in order.
        sort: as ``--sort``; None keeps the order. Rows without a value come last.
        shown: by column, the text of each row, if it is not simply the value.
    """
    order = list(range(len(rows)))
    if sort is not None:
        order = _sorted(rows, sort)
    if json is not None:
        write_json(json, json_text.dumps([rows[i] for i in order], indent=1, default=str))
        return
    texts = {name: shown[name] if name in shown else [_text(row.get(name)) for row in rows] for name in headings}
    lines = [list(headings.values()), *([texts[name][i] for name in headings] for i in order)]
    if rows:
        terminal.show(fitted(lines))


def _sorted(rows: Sequence[Mapping[str, object]], sort: str) -> list[int]:
    from robustctl.discovery import unknown

    name, down = sort.removeprefix("-"), sort.startswith("-")
    known = [key for key, value in rows[0].items() if not isinstance(value, list | dict)] if rows else []
    if rows and name not in known:
        raise unknown("column", name, known)
    there = [i for i, row in enumerate(rows) if row[name] is not None]
    there.sort(key=lambda i: rows[i][name], reverse=down)  # type: ignore[arg-type,return-value]
    return [*there, *(i for i in range(len(rows)) if i not in set(there))]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def fitted(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns; on a terminal the last column goes on below itself, broken between words."""
    from robustctl.report.columns import columns

    text = columns(lines)
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    left = columns([line[:-1] for line in lines]).splitlines()
    start = max((len(line) for line in left), default=0) + 2
    indent = start if width - start >= NARROWEST else 4
    return "\n".join(_folded(line, width, indent) for line in text.splitlines())


def _folded(line: str, width: int, indent: int) -> str:
    if len(line) <= width:
        return line
    parts = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    return "\n".join(parts)
