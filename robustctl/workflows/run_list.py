"""The runs with what a listing says of each. No torch here."""

from pathlib import Path

from robustctl import runs
from robustctl.errors import RequestError
from robustctl.results import union
from robustctl.runs import Run
from robustctl.workflows.named_results import newest_union

STATUSES = ("running", "stopped", "interrupted", "failed", "finished", "damaged")


def listed_runs() -> tuple[list[dict[str, object]], Path]:
    """A row per run, oldest first, and where the runs are."""
    return [_row(run) for run in runs.list_runs()], runs.root()


def _row(run: Run) -> dict[str, object]:
    try:
        record, status = run.read(), run.status()
        step = run.steps_done()
    except RequestError as error:
        empty = ("model", "recipe", "seed", "step", "steps", "selection", "result", "protocol", "started")
        return {"name": run.name, "status": "damaged", **dict.fromkeys(empty), "message": str(error)}
    result, protocol = _result(run)
    return {
        "name": run.name,
        "status": status,
        "model": record.base or record.model,
        "recipe": record.recipe_name,
        "seed": record.seed,
        "step": step,
        "steps": record.steps,
        "selection": record.best["union"] if record.best else None,
        "result": result,
        "protocol": protocol,
        "started": record.started,
        "message": record.message,
    }


def _result(run: Run) -> tuple[float | None, str | None]:
    """Union accuracy and protocol of the newest result; none if there is no result that can be read."""
    try:
        found = union.read(newest_union(run))
    except RequestError:
        return None, None
    return found.union.acc, found.attack.name
