"""List the runs."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import Json, Sort, listing, require_target

HEADINGS = {
    "name": "run",
    "status": "status",
    "steps": "steps",
    "seed": "seed",
    "selection": "selection",
    "result": "result (union)",
    "message": "",
}


def command(
    status: Annotated[
        str | None, typer.Option("--status", help="Only runs with this status, e.g. finished or stopped.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only runs that started from this model.", autocompletion=options.model_names)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Only runs of this recipe.", autocompletion=options.recipe_names)
    ] = None,
    sort: Sort = None,
    json: Json = None,
) -> None:
    """List runs, oldest first: status, steps, seed, union accuracy on the selection split, newest result.

    A run is stopped if it has not ended and no process trains it any more. --resume goes on with a run that is
    interrupted, stopped or failed, or that --max-steps has cut.
    """
    from robustctl.discovery import unknown
    from robustctl.workflows.run_list import STATUSES, listed_runs

    require_target(json)
    if status is not None and status not in STATUSES:
        raise unknown("status", status, STATUSES)
    rows, root = listed_runs()
    wanted = {"status": status, "model": model}
    rows = [row for row in rows if all(value is None or row[key] == value for key, value in wanted.items())]
    if recipe is not None:
        rows = [row for row in rows if recipe in (row["recipe"], str(row["recipe"]).rpartition("/")[2])]
    if not rows and json is None:
        terminal.tell(f"no runs in {root}" + (" that fit" if status or model or recipe else ""))
    shown = {
        "steps": [f"{row['step']}/{row['steps']}" if row["steps"] is not None else "-" for row in rows],
        "selection": [_percent(row["selection"]) for row in rows],
        "result": [_percent(row["result"], str(row["protocol"] or "")) for row in rows],
        "message": [str(row["message"] or "") for row in rows],
    }
    listing(rows, HEADINGS, json, sort, shown)


def _percent(value: object, words: str = "") -> str:
    if not isinstance(value, float):
        return "-"
    return f"{100 * value:.1f} % {words}".rstrip()
