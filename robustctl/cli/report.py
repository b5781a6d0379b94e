"""Results as one page for a browser, or as one row a point for a spreadsheet."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError


def command(
    result: Annotated[
        list[str] | None, typer.Argument(help="Result files or runs; without, all under the runs' root.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write an HTML page here.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the verdict of every point here.")] = None,
) -> None:
    """Show results: as tables on the terminal, as a self-contained HTML page (-o), or point by point (--csv).

    Intermediate-q results are shown too, on the page as curves; --csv leaves them out.
    """
    from robustctl.files import write_text
    from robustctl.report import page, points, q_table, table
    from robustctl.workflows.named_results import read_both

    found, curves = read_both(result or [])
    if not found and not curves:
        raise RequestError("there is no result yet; make one with robustctl eval")
    if csv is not None and not found:
        raise RequestError("--csv needs verdicts; make some with robustctl eval --union")
    if output is not None:
        write_text(output, page.render(found, curves))
        terminal.tell(f"page: {output}")
    if csv is not None:
        write_text(csv, points.render(found))
        terminal.tell(f"points: {csv}")
    if output is None and csv is None:
        tables = [table.before_after([one]) for one in found] + [q_table.table(one) for _, one in curves]
        terminal.show("\n\n".join(tables))
