"""Trains or fine-tunes a model: from a request to a finished run directory."""

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from robustctl import runs, user_code
from robustctl.architectures import Classifier
from robustctl.devices import pick_device
from robustctl.errors import InterruptedRun, RunError
from robustctl.hub import client
from robustctl.processes import World, local_device, world
from robustctl.progress import say
from robustctl.publish.push import preflight
from robustctl.runs import Run
from robustctl.spec import ModelSpec
from robustctl.training.build import require_outputs, require_space, resizing_spec
from robustctl.training.loop import Loop
from robustctl.workflows import rehearsal
from robustctl.workflows.run_record import create_run
from robustctl.workflows.start_model import start_model, start_parts
from robustctl.workflows.tensorboard import tensorboard
from robustctl.workflows.training_plan import (
    TrainingPlan,
    header,
    oddities,
    plan_afresh,
    plan_resumption,
    plan_without_images,
    run_to_resume,
)
from robustctl.workflows.training_request import TrainingRequest


def train(request: TrainingRequest) -> Run | None:
    """Train or fine-tune, and leave a finished run directory.

    Under ``torchrun`` its processes train one model together.

    Returns:
        The run; None after a dry run, and in all but the first of torchrun's processes.

    Raises:
        RequestError: something in the request is wrong; nothing was written.
        RunError: the training failed; the run directory has the last good weights.
        InterruptedRun: a signal stopped it; ``resume`` goes on.
    """
    if request.max_steps is not None and request.dry_run:
        request = replace(request, max_steps=None)
    if request.push is not None:
        preflight(request.push)
    device = local_device(pick_device(request.device))
    code = user_code.parse("--model-code", request.model_code) if request.model_code else None
    with world(device) as w, user_code.granted(code), ExitStack() as scope:
        if not w.leads:
            os.environ["ROBUSTCTL_QUIET"] = "1"
        # One process looks for the run: of two that try its lock at once, one would take it for held.
        run = w.broadcast(run_to_resume(request) if request.resume and w.leads else None)
        try:
            plan = plan_resumption(request, run) if run else plan_afresh(request, code, scope)
        except RunError as missing:  # images that cannot be had now; a dry run says what it can
            if not request.dry_run:
                raise
            _say(w, plan_without_images(request, w))
            raise RunError(f"nothing was started: {missing}") from None
        model, spec = start_model(plan)
        spec = resizing_spec(spec, plan.data)
        if run is None:
            for line in oddities(plan, spec):
                _say(w, [line])
        _say(w, header(plan, spec))
        if request.dry_run:
            _rehearse(plan, run, model, spec, device, w)
            return None
        finished = _train(plan, run, model, spec, device, w)
        return finished if w.leads else None


def _rehearse(
    plan: TrainingPlan, run: Run | None, model: Classifier, spec: ModelSpec, device: torch.device, w: World
) -> None:
    """Check all that a run would refuse, and say what it takes; nothing is written.

    Raises:
        RunError: the weights are not here and cannot be fetched now.
    """
    require_outputs(model, spec)
    place = run.path if run else plan.request.out or runs.root()
    require_space(model, plan.settings, place)
    runs.require_free(plan.request.out if run is None else None)
    parts = start_parts(plan, model, spec, device, w)
    _say(w, rehearsal.decisions(parts))
    taken = rehearsal.cost(parts, plan.settings.about, weights_are_here=not plan.weights_are_absent)
    _say(w, [*taken.lines(), *rehearsal.on_a_card(parts)])
    if plan.weights_are_absent and client.is_offline():
        raise RunError(
            f"nothing was started: the weights of {plan.model} are not here, and HF_HUB_OFFLINE forbids to fetch them; "
            f"bring them first: robustctl pull {plan.model}"
        )


def _train(
    plan: TrainingPlan, run: Run | None, model: Classifier, spec: ModelSpec, device: torch.device, w: World
) -> Run:
    resuming = run is not None
    require_outputs(model, spec)
    require_space(model, plan.settings, run.path if run else plan.request.out or runs.root())
    with ExitStack() as lock:
        if run is not None:  # before its files are touched: another process may be training it
            if w.leads:
                lock.enter_context(run.training())
            w.wait()
        parts = start_parts(plan, model, spec, device, w)
        if run is None:  # only now that nothing can be wrong with the request any more
            run = create_run(plan, model, device, w, lock)
        listeners = [tensorboard(run.path / "tensorboard")] if plan.request.tensorboard and w.leads else []
        loop = Loop(parts, run.path, listeners)
        if resuming:
            loop.resume()
        if resuming and loop.position.is_done(plan.request.max_steps) and _is_recorded(run, loop):
            _say(w, [f"{run.path} has done its {loop.position.step} steps already"])
        else:  # also if it was killed between its last state and its record: weights and status are written now
            _run_loop(loop, run, plan.request.max_steps, w)
    return run


def _is_recorded(run: Run, loop: Loop) -> bool:
    record = run.read()
    return record.status == "finished" and record.step == loop.position.step


def _run_loop(loop: Loop, run: Run, max_steps: int | None, w: World) -> None:
    """Train, and record how it ended."""
    _update(w, run, status="running", steps=loop.position.steps, message="")
    try:
        outcome = loop.run(max_steps)
    except InterruptedRun as stop:
        _update(w, run, status="interrupted", step=loop.position.step, message=str(stop), seconds=loop.monitor.seconds)
        raise
    except KeyboardInterrupt:  # asked twice: within a step
        if not run.has_state():
            raise
        go_on = f"go on with --resume --out {run.path}"
        raise InterruptedRun(f"interrupted at once; the state of the last save is kept, {go_on}") from None
    except RunError as error:
        kept = f"{error}. The last good weights are in {run.path}."
        _update(w, run, status="failed", step=loop.position.step, message=kept, seconds=loop.monitor.seconds)
        raise RunError(kept) from error
    _update(w, run, status="finished", step=outcome.step, best=outcome.best, seconds=outcome.seconds)
    code = run.read().model_code
    named = f" --model-code {shlex.quote(code)}" if code else ""
    _say(w, [f"done in {outcome.seconds:.0f} s; next: robustctl eval {run.path} --union{named}"])


def _update(w: World, run: Run, **changes: Any) -> None:
    if w.leads:
        run.update(**changes)


def _say(w: World, lines: Sequence[str]) -> None:
    if w.leads:
        for line in lines:
            say(line)
