"""The text of a dry run of a study: its steps, hours by device and disk, after everything is checked."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from robustctl import runs
from robustctl.devices import pick_device
from robustctl.errors import RobustctlError, RunError
from robustctl.processes import World
from robustctl.progress import duration
from robustctl.study.cells import Evaluation, StudyPlan, Training
from robustctl.training.build import require_outputs
from robustctl.user_code import granted
from robustctl.user_code import parse as parse_code
from robustctl.workflows import rehearsal
from robustctl.workflows.rehearsal import Cost
from robustctl.workflows.start_model import start_model, start_parts
from robustctl.workflows.training_plan import header, oddities, plan_afresh
from robustctl.workflows.training_request import TrainingRequest


@dataclass
class _Sum:
    """The cost of the steps that are left, together."""

    steps: int = 0
    seconds: float = 0.0
    unknown: int = 0
    disk: int = 0
    faults: list[str] = field(default_factory=list)


def lines(plan: StudyPlan, devices: Sequence[str], jobs: int) -> list[str]:
    """The plan in lines: what is done, what is left, what it takes; seeds of one training take the same.

    Raises:
        RunError: some trainings would be refused; the lines before it say which, and why.
    """
    said, total = [], _Sum()
    for group in _groups(plan.trainings):
        left = [one for one in group if plan.needed(one)]
        seeds = ", ".join(str(one.seed) for one in group)
        named = f"{group[0].command} {group[0].start.name} --recipe {group[0].recipe.name}, seeds {seeds}"
        if not left:
            said.append(f"{named}: done")
            continue
        try:
            taken = _cost(left[0], devices[0])
        except RobustctlError as error:
            total.faults.append(f"{named}: {error}")
            continue
        total.steps += len(left) * taken.steps
        total.disk += len(left) * taken.disk
        total.seconds += len(left) * (taken.seconds or 0.0)
        total.unknown += len(left) * (taken.seconds is None)
        time = "time not known" if taken.seconds is None else f"{duration(taken.seconds)} each, {taken.how}"
        said.append(f"{named}: {len(left)} of {len(group)} left, {taken.steps} steps and {time}")
    said += _evaluations(plan.evaluations)
    hours = f"{duration(total.seconds)} of training on {', '.join(devices)}"
    several = f", {duration(total.seconds / jobs)} with {jobs} at a time" if jobs > 1 else ""
    unknown = f" and {total.unknown} trainings whose time is not known" if total.unknown else ""
    said.append(f"left: {total.steps} steps, {hours}{several}{unknown}; {total.disk / 1e6:.1f} MB below {runs.root()}")
    if total.faults:
        listed = "\n  ".join(total.faults)
        raise RunError("\n".join(said) + f"\nthe study would fail at {len(total.faults)} places:\n  {listed}")
    return said


def _groups(trainings: Sequence[Training]) -> list[list[Training]]:
    """The trainings that differ in their seed alone, together."""
    found: dict[tuple[str, ...], list[Training]] = {}
    for one in trainings:
        digest = one.name.rpartition("-")[2]
        found.setdefault((one.command, one.start.name, one.recipe.name, digest), []).append(one)
    return list(found.values())


def _cost(training: Training, device: str) -> Cost:
    """The cost of one training; raises what a run of it would raise."""
    data, start = training.data, training.start
    code = parse_code("code", start.code.code) if start.code else None
    request = TrainingRequest(
        command="finetune" if training.command == "finetune" else "train",
        model=None if start.code else start.name,
        recipe=str(training.recipe.path),
        overrides=training.recipe.overrides,
        data=data.source if data else None,
        split=data.train_split if data else None,
        columns=data.columns if data else None,
        classes=Path(data.classes) if data and data.classes else None,
        seed=training.seed,
        device=device,
        dry_run=True,
        weights=start.code.weights if start.code else None,
    )
    with granted(code), ExitStack() as scope:
        plan = plan_afresh(request, code, scope)
        model, spec = start_model(plan)
        oddities(plan, spec)
        header(plan, spec)  # raises for a learning rate that is missing
        require_outputs(model, spec)
        parts = start_parts(plan, model, spec, pick_device(device), World())
        return rehearsal.cost(parts, plan.settings.about, weights_are_here=not plan.weights_are_absent)


def _evaluations(evaluations: Sequence[Evaluation]) -> list[str]:
    """A line per protocol; what an evaluation takes depends on which points break, and is said once it runs."""
    every = Counter(one.protocol for one in evaluations)
    left = Counter(one.protocol for one in evaluations if not one.done())
    return [f"evaluations by {name}: {left[name]} of {count} left" for name, count in every.items()]
