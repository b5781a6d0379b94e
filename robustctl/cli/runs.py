"""List the runs."""

import typer

from robustctl.errors import RequestError


def command() -> None:
    """List runs, oldest first: name, status, steps, best union accuracy on the selection split.

    A run is stopped where it has not ended and no process trains it any more.
    """
    from robustctl import runs

    found = runs.list_runs()
    if not found:
        typer.echo(f"no runs in {runs.root()}", err=True)
    for run in found:
        try:
            record, status = run.read(), run.status()
        except RequestError as error:
            typer.echo(f"{run.name}  damaged: {error}")
            continue
        best = f"best selection union {100 * record.best['union']:.1f} %" if record.best else ""
        typer.echo(f"{run.name}  {status:11}  step {record.step}/{record.steps}  {best}".rstrip())
