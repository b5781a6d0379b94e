"""List the runs."""

from robustctl import terminal
from robustctl.errors import RequestError


def command() -> None:
    """List runs, oldest first: name, status, steps, best union accuracy on the selection split.

    A run is stopped if it has not ended and no process trains it any more.
    """
    from robustctl import runs

    found = runs.list_runs()
    if not found:
        terminal.tell(f"no runs in {runs.root()}")
    for run in found:
        try:
            record, status = run.read(), run.status()
        except RequestError as error:
            terminal.show(f"{run.name}  damaged: {error}")
            continue
        best = f"best selection union {100 * record.best['union']:.1f} %" if record.best else ""
        terminal.show(f"{run.name}  {status:11}  step {run.steps_done()}/{record.steps}  {best}".rstrip())
