"""What ``train`` and ``finetune`` share: from a request to a finished run directory."""

import os
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from robustctl.errors import InterruptedRun, RequestError, RunError

if TYPE_CHECKING:
    import torch

    from robustctl.architectures import Classifier
    from robustctl.data import EncodedData, ImageData
    from robustctl.models.find import Located
    from robustctl.processes import World
    from robustctl.recipe.read import Recipe
    from robustctl.recipe.schema import Settings
    from robustctl.runs import Record, Run
    from robustctl.spec import ModelSpec
    from robustctl.training.loop import Listener, Loop


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    command: Literal["train", "finetune"]
    model: str | None
    recipe: str | None
    data: str | None
    overrides: tuple[str, ...]
    seed: int | None
    device: str
    out: Path | None
    max_steps: int | None
    resume: bool
    dry_run: bool
    push: str | None = None
    licence: str | None = None
    tensorboard: bool = False
    new_head: bool = False


@dataclass(frozen=True)
class Job:
    """A request with everything resolved.

    ``located`` is the start of a fine-tuning, ``spec`` the model of a run that is resumed.
    """

    request: Request
    settings: "Settings"
    recipe: "Recipe | None"
    model: str
    located: "Located | None"
    data: "ImageData | EncodedData"
    seed: int
    spec: "ModelSpec | None" = None


def carry_out(request: Request) -> None:
    """Train, and leave a finished run directory; its path goes to stdout."""
    from robustctl.cli import push
    from robustctl.cli._training_model import model_of
    from robustctl.oracle import pick_device
    from robustctl.processes import local_device, world
    from robustctl.publish.push import preflight
    from robustctl.training.build import resizing_spec

    if request.max_steps is not None and request.dry_run:
        request = replace(request, max_steps=None)
    if request.push is not None and not request.dry_run:
        preflight(request.push)
    device = local_device(pick_device(request.device))
    with world(device) as w:
        if not w.leads:
            os.environ["ROBUSTCTL_QUIET"] = "1"
        # One process looks for the run: of two that try its lock at once, one would take it for held.
        run = w.broadcast(_run_to_resume(request) if request.resume and w.leads else None)
        job = _resumed(request, run) if run else _fresh(request)
        model, spec = model_of(job)
        spec = resizing_spec(spec, job.data)
        _say(w, _header(job, spec))
        if request.dry_run:
            return
        finished = _train(job, run, model, spec, device, w)
        if request.push is not None and w.leads:
            push.command(str(finished.path), repo=request.push, licence=request.licence)


def _fresh(request: Request) -> Job:
    from robustctl.models.find import locate
    from robustctl.publish.push import require_licence
    from robustctl.recipe import read as recipe

    if request.recipe is None:
        raise RequestError("say how to train: --recipe R (robustctl recipes list shows them)")
    if request.model is None:
        raise RequestError(f"say what to {request.command}: robustctl {request.command} MODEL --recipe R")
    located = locate(request.model, fetch=False) if request.command == "finetune" else None
    inherited = located.licence if located else None
    require_licence(request.push, request.licence or inherited, located.name if located else None)
    dataset = located.spec.dataset if located else _dataset_of(request.recipe, request.data)
    chosen = recipe.load(request.recipe, request.overrides, dataset)
    data = _data(request.data, chosen.settings, located.spec if located else None)
    if located and not request.dry_run:
        located = locate(request.model)  # a gigabyte perhaps: only now that the request is known to be right
    return Job(request, chosen.settings, chosen, request.model, located, data, request.seed or 0)


def _dataset_of(recipe_name: str, data: str | None) -> str | None:
    """The data set for which ``train`` looks a recipe up: none where its name says it, else that of ``--data``."""
    from robustctl.standards import STANDARDS

    if "/" in recipe_name or recipe_name.endswith((".yaml", ".yml")):
        return None
    return next((name for name, standard in STANDARDS.items() if data in (name, standard.source)), None)


def _data(source: str | None, settings: "Settings", spec: "ModelSpec | None") -> "ImageData | EncodedData":
    """The training split; images of several sizes only where the model, the data set or the recipe allows them."""
    from robustctl.spec import IMAGENET
    from robustctl.standards import STANDARDS
    from robustctl.workflows.images import load_training_images

    dataset = settings.dataset
    if source is None and dataset not in STANDARDS:
        raise RequestError(f"say where the images of {dataset!r} are: --data FOLDER, .npz file or hub data set")
    any_size = bool(settings.augment.resized_crop or dataset == IMAGENET or (spec and spec.resizing))
    side = spec.input_shape[-1] if spec else None
    return load_training_images(source or STANDARDS[dataset].source, "train", any_size=any_size, side=side)


def _run_to_resume(request: Request) -> "Run":
    """The run of ``--out``, else the newest unfinished one."""
    from robustctl import runs
    from robustctl.training import state_file

    if request.out is not None:
        return runs.Run(request.out)
    for run in runs.unfinished(state_file.STATE):
        record = run.read()
        if request.model in (None, record.model) and record.command == request.command:
            return run
    raise RequestError(f"there is no unfinished run in {runs.root()} to resume; name one: --resume --out RUN")


def _resumed(request: Request, run: "Run") -> Job:
    """The recorded job; what the request says otherwise is an error that names it."""
    from robustctl.publish.push import require_licence
    from robustctl.recipe import read as recipe
    from robustctl.spec import read_spec
    from robustctl.training import state_file

    record = run.read()
    if not (run.path / state_file.STATE).is_file():
        raise RequestError(f"{run.path} has no saved state to go on from; start it again without --resume")
    require_licence(request.push, request.licence or record.licence, record.base)
    changed = [
        f"{name} (given {given!r}, the run has {recorded!r})"
        for name, given, recorded in (
            ("the command", request.command, record.command),
            ("MODEL", request.model, record.model),
            ("--seed", request.seed, record.seed),
            ("--data", request.data, record.data["source"]),
        )
        if given is not None and given != recorded
    ]
    settings = recipe.from_resolved(record.recipe)
    if request.recipe is not None:
        new = recipe.load(request.recipe, request.overrides, settings.dataset)
        changed += recipe.differences(record.recipe, new.resolved())
    elif request.overrides:
        changed += [f"--set {override} (give --recipe too)" for override in request.overrides]
    if changed:
        raise RequestError(f"cannot resume {run.path} with a changed request: {'; '.join(changed)}")
    spec = read_spec(run.path)
    data = _data(record.data["source"], settings, spec)
    if not data.has_content(record.data["content_sha256"]):
        raise RequestError(f"cannot resume {run.path}: the images of {record.data['source']} have changed")
    return Job(request, settings, None, record.model, None, data, record.seed, spec)


def _header(job: Job, spec: "ModelSpec") -> list[str]:
    from math import prod

    from robustctl.recipe import read as recipe
    from robustctl.training.build import learning_rate

    settings = job.settings
    trained_on = "clean images" if settings.method.name == "natural" else ", ".join(map(str, settings.train_threats))
    lines = [
        f"{job.request.command} {job.model} ({spec.architecture.name}, {settings.dataset}) with method "
        f"{settings.method.name}, seed {job.seed}",
        f"data: {len(job.data)} images of {job.data.source} ({job.data.split}), {settings.selection.images} of them "
        "held out for selection",
        f"trained on {trained_on}; judged by "
        f"{', '.join(map(str, settings.evaluate_threats))}; epochs: {settings.train.epochs}, "
        f"lr {learning_rate(settings, spec):g}",
    ]
    hull = recipe.hull_line(settings, prod(spec.input_shape))
    return [*lines, hull] if hull else lines


def _train(
    job: Job, run: "Run | None", model: "Classifier", spec: "ModelSpec", device: "torch.device", w: "World"
) -> "Run":
    from robustctl import runs
    from robustctl.training.build import build_loop, require_space

    resuming = run is not None
    require_space(model, job.settings, run.path if run else job.request.out or runs.root())
    with ExitStack() as lock:
        if run is not None:  # before its files are touched: another process may be training it
            if w.leads:
                lock.enter_context(run.training())
            w.wait()
        loop = build_loop(
            model,
            spec,
            job.data,
            job.settings,
            run.path if run else Path(),
            seed=job.seed,
            device=device,
            world=w,
            start_norm=job.located.spec.norm if job.located else None,
            resuming=resuming,
        )
        if run is None:  # only now that nothing can be wrong with the request any more
            run = _create(job, model, device, w)
            loop.directory = run.path
            if w.leads:
                lock.enter_context(run.training())
        if job.request.tensorboard and w.leads:
            loop.listeners.append(_tensorboard(run.path / "tensorboard"))
        if resuming and loop.done(job.request.max_steps):
            _say(w, [f"{run.path} has done its {loop.step} steps already"])
        else:
            _run_loop(loop, run, job.request.max_steps, w)
    if w.leads:
        typer.echo(run.path)
    return run


def _run_loop(loop: "Loop", run: "Run", max_steps: int | None, w: "World") -> None:
    """Train, and record how it ended."""
    _update(w, run, status="running", steps=loop.steps, message="")
    try:
        outcome = loop.run(max_steps)
    except InterruptedRun as stop:
        _update(w, run, status="interrupted", step=loop.step, message=str(stop), seconds=loop.seconds)
        raise
    except RunError as error:
        kept = f"{error}. The last good weights are in {run.path}."
        _update(w, run, status="failed", step=loop.step, message=kept, seconds=loop.seconds)
        raise RunError(kept) from error
    _update(w, run, status="finished", step=outcome.step, best=outcome.best, seconds=outcome.seconds)
    _say(w, [f"done in {outcome.seconds:.0f} s; next: robustctl eval {run.path} --union"])


def _tensorboard(directory: Path) -> "Listener":
    """Writes the numbers of each line of metrics under the line's kind."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(directory)

    def write(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, float) and "step" in line:
                writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        writer.flush()

    return write


def _create(job: Job, model: "Classifier", device: "torch.device", w: "World") -> "Run":
    """Make the run directory, in the leading process; the others learn its path."""
    from robustctl import runs
    from robustctl.files import write_text

    assert job.recipe is not None, "a fresh job has a recipe"
    if not w.leads:
        return runs.Run(w.broadcast(None))
    run = runs.create(job.model, job.recipe.short_name, job.request.out)
    run.write(_record(job, model, device))
    write_text(run.path / runs.RECIPE, job.recipe.path.read_text(encoding="utf-8"))
    return runs.Run(w.broadcast(run.path))


def _record(job: Job, model: "Classifier", device: "torch.device") -> "Record":
    from robustctl import checkpoint, runs

    assert job.recipe is not None, "a fresh job has a recipe"
    located, data = job.located, job.data
    return runs.Record(
        schema="robustctl.run/1",
        command=job.request.command,
        model=job.model,
        base=located.name if located else None,
        base_sha256=checkpoint.weights_sha256(model) if located else None,
        licence=located.licence if located else None,
        new_head=job.request.new_head,
        recipe_name=job.recipe.name,
        recipe=job.recipe.resolved(),
        overrides=list(job.request.overrides),
        seed=job.seed,
        data={
            "source": data.source,
            "split": data.split,
            "n": len(data),
            "index_sha256": data.index_sha256,
            "content_sha256": data.content_sha256,
        },
        device=str(device),
        hardware=_hardware(device),
        versions=_versions(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _update(w: "World", run: "Run", **changes: Any) -> None:
    if w.leads:
        run.update(**changes)


def _say(w: "World", lines: Sequence[str]) -> None:
    from robustctl.progress import say

    if w.leads:
        for line in lines:
            say(line)


def _hardware(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    import torch

    from robustctl import __version__

    return {"robustctl": __version__, "torch": torch.__version__, "python": platform.python_version()}
