"""Results as one page for a browser, or as one row a point for a spreadsheet."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustctl.errors import RequestError


def command(
    result: Annotated[
        list[str] | None, typer.Argument(help="Result files or runs; without, all under the runs' root.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write an HTML page here.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the verdict of every point here.")] = None,
) -> None:
    """Show results: as tables on the terminal, as a self-contained HTML page (-o), or point by point (--csv)."""
    from robustctl.cli._results import everything, read_all
    from robustctl.files import write_text
    from robustctl.report import page, points, table

    found = read_all(result or everything())
    if not found:
        raise RequestError("there is no result yet; make one with robustctl eval")
    if output is not None:
        write_text(output, page.render(found))
        print(f"page: {output}", file=sys.stderr)
    if csv is not None:
        write_text(csv, points.render(found))
        print(f"points: {csv}", file=sys.stderr)
    if output is None and csv is None:
        typer.echo("\n\n".join(table.before_after([one]) for one in found))
