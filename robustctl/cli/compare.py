"""Whether one model is more robust than another, on the same points."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError


def command(
    result: Annotated[
        list[str], typer.Argument(help="Result files or runs; the first is what others are compared to.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
) -> None:
    """Compare results point by point: differences and exact paired tests. Unlike results are marked, not compared."""
    from robustctl.report import table
    from robustctl.workflows.named_results import read_all

    if len(result) < 2:
        raise RequestError("compare needs at least two results, e.g. robustctl compare before.json after.json")
    show = table.markdown if markdown else table.before_after
    terminal.show(show(read_all(result)))
