"""Records what a training does: the run directory with its ``run.json`` and its recipe."""

import time
from contextlib import ExitStack
from typing import Any

import torch

from robustctl import checkpoint, runs
from robustctl.architectures import Classifier
from robustctl.data import Reading
from robustctl.devices import device_name
from robustctl.files import write_text
from robustctl.processes import World
from robustctl.runs import Run, RunRecord
from robustctl.version import versions
from robustctl.workflows.training_plan import TrainingPlan


def create_run(plan: TrainingPlan, model: Classifier, device: torch.device, w: World, lock: ExitStack) -> Run:
    """Make the run directory and hold its lock, in the leading process; the others learn its path.

    Raises:
        RequestError: another process has taken the directory.
        RunError: the place is not writable.
    """
    assert plan.recipe is not None, "a fresh plan has a recipe"
    if not w.leads:
        return runs.Run(w.broadcast(None))
    run = runs.create(plan.model, plan.recipe.short_name, plan.request.out)
    lock.enter_context(run.training())
    runs.begin(run)
    run.write(_record(plan, model, device))
    write_text(run.path / runs.RECIPE, plan.recipe.text())
    return runs.Run(w.broadcast(run.path))


def _record(plan: TrainingPlan, model: Classifier, device: torch.device) -> RunRecord:
    assert plan.recipe is not None, "a fresh plan has a recipe"
    found_model, data = plan.found_model, plan.data
    return runs.RunRecord(
        schema="robustctl.run/1",
        command=plan.request.command,
        model=plan.model,
        base=found_model.name if found_model else None,
        base_sha256=checkpoint.weights_sha256(model) if found_model else None,
        licence=found_model.licence if found_model else None,
        new_head=plan.request.new_head,
        model_code=plan.request.model_code,
        recipe_name=plan.recipe.name,
        recipe=plan.recipe.resolved(),
        overrides=list(plan.request.overrides),
        seed=plan.seed,
        data={
            "source": data.source,
            "split": data.split,
            **({"revision": data.revision} if data.revision else {}),
            "n": len(data),
            "index_sha256": data.index_sha256,
            "content_sha256": data.content_sha256,
            **_said_about(plan.reading),
        },
        device=str(device),
        hardware=device_name(device),
        versions=versions(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _said_about(reading: Reading) -> dict[str, Any]:
    """Columns and classes as the user gave them, for a resumption and for evaluations."""
    found: dict[str, Any] = {"columns": str(reading.columns), "classes": reading.classes}
    return {key: value for key, value in found.items() if value}
