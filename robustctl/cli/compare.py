"""Whether one model is more robust than another, on the same points."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.errors import RequestError


def command(
    result: Annotated[
        list[str],
        typer.Argument(
            help="Result files, runs or studies (.yaml); the first is what others are compared to.",
            autocompletion=options.result_names,
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
) -> None:
    """Compare results point by point: differences and exact paired tests. Unlike results are marked, not compared.

    Results of suites stand in one table, a column each.
    """
    from robustctl.report import suite_table, table
    from robustctl.workflows.named_results import read_all, read_suites
    from robustctl.workflows.study import opened

    result = opened(result)
    if len(result) < 2:
        raise RequestError("compare needs at least two results, e.g. robustctl compare before.json after.json")
    suites = read_suites(result)
    if suites is not None:
        if markdown:
            raise RequestError("--markdown is for results of the three norms; tables of suites are plain text")
        terminal.show(suite_table.table(suites))
        return
    show = table.markdown if markdown else table.before_after
    terminal.show(show(read_all(result)))
