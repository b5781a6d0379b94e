"""Measure speed: of the attacks against the reference package, and of an attack step in training."""

import json as json_text
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import STDOUT, Json, require_target
from robustctl.errors import RequestError

if TYPE_CHECKING:
    import torch

    from robustctl.bench.gpu import Found
    from robustctl.data import ImageData
    from robustctl.workflows.subject import Subject

app = typer.Typer(no_args_is_help=True, help="Measure speed: attack, train, intermediate, gpu.")

Rounds = Annotated[int, typer.Option(min=1, help="Alternating runs; medians are reported.")]


@app.command()
def attack(
    model: options.Model = "digits-linf",
    vs: Annotated[str | None, typer.Option(help="Also run this peer in turns: autoattack.")] = None,
    protocol: Annotated[str, typer.Option(help="standard, full, adaptive or adaptive+.")] = "standard",
    data: options.Data = None,
    split: options.Split = "test",
    columns: options.Columns = None,
    classes: options.Classes = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="The first N images.")] = 500,
    norms: options.Norms = None,
    eps: Annotated[str | None, typer.Option(help="Radii, e.g. linf:8/255,l1:12.")] = None,
    precision: Annotated[str, typer.Option(help="Of our attacks: float32, bf16 or auto.")] = "auto",
    own_labels: Annotated[
        bool, typer.Option("--own-labels", help="Label images by the model itself, for weights that know nothing.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a batch; without, what suits the device.")
    ] = None,
    peer_batch_size: Annotated[int, typer.Option(min=1, help="Images a batch of the peer; 250 is its default.")] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the attacks.")] = 0,
    rounds: Rounds = 3,
    device: options.Device = "auto",
    json: Json = None,
) -> None:
    """Time our attacks, and with --vs the reference's with the same budget on the same points, in alternating runs."""
    require_target(json)
    from dataclasses import replace

    from robustctl import checkpoint
    from robustctl.bench.attack import PEER, compare
    from robustctl.devices import pick_device
    from robustctl.discovery import unknown
    from robustctl.evaluation import referee, union
    from robustctl.evaluation.families import default_batch_size, other_batch_sizes
    from robustctl.evaluation.union_request import UnionRequest
    from robustctl.precision import pick_precision
    from robustctl.workflows.subject import choose_threats, find_subject

    if vs not in (None, "autoattack"):
        raise unknown("peer", str(vs), ["autoattack"])
    if protocol not in PEER:
        raise unknown("protocol", protocol, PEER)
    subject = find_subject(model)
    threats = choose_threats(subject, norms, eps)
    where = pick_device(device)
    chosen = pick_precision(precision, where)
    images = _images(subject, data, split, n, columns, classes)
    classifier = checkpoint.load_from(subject.found_model.spec, subject.found_model.weights).to(where)
    images_a_batch = batch_size or default_batch_size(where)
    predicted = referee.predictions(classifier, images, images_a_batch)
    if own_labels:
        images = replace(images, y=predicted)
    elif not (predicted == images.y).any():
        raise RequestError("the model is right on none of these images; --own-labels labels them by the model itself")
    asked = UnionRequest(
        threats,
        protocol,
        seed,
        images_a_batch,
        chosen,
        measure=precision == "auto",
        other_sizes=() if batch_size else other_batch_sizes(where),
    )
    found, _ = union.confirmed(classifier.eval(), images, asked)
    result = compare(
        classifier,
        images,
        threats,
        protocol=protocol,
        precision=found.precision,
        channels_last=found.channels_last,
        seed=seed,
        batch_size=found.batch_size,
        peer_batch_size=peer_batch_size,
        rounds=rounds,
        peer=vs is not None,
        report=terminal.tell,
    )
    _show(result | {"model": subject.found_model.name}, json)


@app.command()
def train(
    architecture: Annotated[str, typer.Option(help="Architecture with its default arguments.")] = "preact-resnet18",
    model: Annotated[str | None, typer.Option(help="Train this model instead.")] = None,
    threat: Annotated[str, typer.Option(help="What the attack maximises in.")] = "linf:8/255",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of APGD.")] = 10,
    rounds: Rounds = 3,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Time a step with compiled code too, as compile: true has it.")
    ] = False,
    device: options.Device = "auto",
    json: Json = None,
) -> None:
    """Time a training step of ours against one as the authors of the methods write it, in alternating runs."""
    require_target(json)
    from robustctl import checkpoint
    from robustctl.architectures import build
    from robustctl.bench.train import compare
    from robustctl.devices import pick_device
    from robustctl.spec import ModelSpec
    from robustctl.threats import Threat
    from robustctl.workflows.subject import find_subject

    if model is not None:
        found = find_subject(model).found_model
        spec, network = found.spec, checkpoint.load_from(found.spec, found.weights)
    else:
        spec = ModelSpec.model_validate(
            {"architecture": {"name": architecture}, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10"}
        )
        network = build(spec)
    network = network.to(pick_device(device)).train()
    parsed = Threat.parse(threat)
    result = compare(
        network,
        parsed,
        input_shape=spec.input_shape,
        batch_size=batch_size,
        steps=steps,
        rounds=rounds,
        compiled=compiled,
    )
    _show(result | {"model": model or architecture}, json)


@app.command()
def gpu(
    budget: Annotated[str, typer.Option(help="Time to fill, e.g. 8m or 90s; the last part is finished.")] = "8m",
    device: options.Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --json: parts that it holds are not done again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the parts in their order; nothing is run.")] = False,
    json: Json = None,
) -> None:
    """Compare an accelerator with the CPU, then measure its speed: what matters most comes first."""
    from robustctl.bench.gpu import lines, part_names, run, summary
    from robustctl.bench.gpu_setting import planned
    from robustctl.devices import pick_device
    from robustctl.progress import duration

    where, seconds = pick_device(device), _seconds(budget)
    found = _earlier(json, where) if resume else []
    done = {one.part for one in found}
    if dry_run:
        for name in part_names(where):
            terminal.tell(f"{name}: {'done' if name in done else f'planned {planned(name)} s on an H100'}")
        return
    end = time.monotonic() + seconds
    for one in run(where, seconds, done=done):
        found.append(one)
        for line in lines(one):
            terminal.tell(line)
        terminal.tell(f"  left: {duration(max(end - time.monotonic(), 0))}")
        if json not in (None, STDOUT):
            _write(summary(where, found), json)  # after each part: the run may be cut at any moment
    _show(summary(where, found), json)


def _earlier(json: Path | None, device: "torch.device") -> "list[Found]":
    """The parts in the file of a run that was cut; none if there is no file.

    Raises:
        RequestError: no file is named, or it is not one of this command on this machine.
    """
    from robustctl.bench.gpu import earlier
    from robustctl.reading import read_json

    if json is None or json == STDOUT:
        raise RequestError("--resume needs --json FILE, the file of the run that goes on")
    return earlier(read_json(json), device) if json.is_file() else []


def _seconds(text: str) -> float:
    """``8m`` or ``90s`` to seconds.

    Raises:
        RequestError: no number with a unit, or not above 0.
    """
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(number) * (unit or 0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RequestError(f"--budget {text!r}: give a time such as 8m or 90s")
    return seconds


@app.command()
def intermediate(
    model: options.Model,
    distribution: Annotated[str, typer.Option(help="linf:RADIUS, which the thesis's algorithm is written for.")],
    data: options.Data = None,
    split: options.Split = "test",
    columns: options.Columns = None,
    classes: options.Classes = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="The first N images.")] = 32,
    q: Annotated[str, typer.Option(help="Orders, e.g. 1,10,100,1000.")] = "1,10,100,1000",
    samples: Annotated[int, typer.Option(min=2, help="Samples an image, of both.")] = 100,
    leapfrog: Annotated[int, typer.Option(min=1, help="Leapfrog steps per sample, of both.")] = 10,
    rounds: Rounds = 3,
    device: options.Device = "auto",
    json: Json = None,
) -> None:
    """Time path sampling against a direct transcription of the thesis's algorithm, in turns."""
    require_target(json)
    from robustctl import checkpoint
    from robustctl.bench.intermediate import compare
    from robustctl.devices import pick_device
    from robustctl.sampling.perturbation import Perturbation
    from robustctl.workflows.evaluate_intermediate import parse_numbers
    from robustctl.workflows.subject import find_subject

    perturbation = Perturbation.parse(distribution)
    if perturbation.kind != "linf":
        raise RequestError(f"--distribution {distribution}: the comparison is for linf:RADIUS")
    subject = find_subject(model)
    perturbation.require(subject.found_model.spec.input_shape)
    images = _images(subject, data, split, n, columns, classes)
    classifier = checkpoint.load_from(subject.found_model.spec, subject.found_model.weights).to(pick_device(device))
    result = compare(
        classifier,
        images,
        perturbation,
        qs=parse_numbers("--q", q),
        samples=samples,
        leapfrog=leapfrog,
        rounds=rounds,
        report=terminal.tell,
    )
    _show(result | {"model": subject.found_model.name}, json)


def _images(
    subject: "Subject", data: str | None, split: str, n: int, columns: str | None, classes: Path | None
) -> "ImageData":
    """The first n images for the subject's model: the given ones, or its own; read as ``eval`` reads them."""
    from robustctl.workflows.images import NamedImages, reading_of

    reading = reading_of(columns, classes) if columns or classes or data else subject.default_reading()
    return NamedImages(data or subject.default_data(), split, n, reading).load(subject.found_model.spec)


def _show(result: dict[str, object], json: Path | None) -> None:
    terminal.show(json_text.dumps(result, indent=2))
    if json not in (None, STDOUT):
        _write(result, json)


def _write(result: dict[str, object], json: Path) -> None:
    from robustctl.files import write_text

    write_text(json, json_text.dumps(result, indent=2) + "\n")
