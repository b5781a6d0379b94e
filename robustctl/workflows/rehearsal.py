"""The text of a dry run of a training: the decisions, and its steps, time, memory and disk."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.devices import HOST, is_host, kept_random, memory_peak, wait_for
from robustctl.errors import RobustctlError
from robustctl.processes import ALONE, World
from robustctl.progress import duration, say
from robustctl.recipe import read as recipes
from robustctl.recipe.outer import Hat
from robustctl.recipe.read import Recipe
from robustctl.recipe.schema import About, Settings
from robustctl.spec import ModelSpec
from robustctl.threats import Threat
from robustctl.training import optim
from robustctl.training.build import build_parts, copies_on_disk
from robustctl.training.footprint import bytes_, fit, footprint, optimizer_state
from robustctl.training.gradients import Gradients
from robustctl.training.meter import Meter
from robustctl.training.parts import Parts
from robustctl.training.passes import Pass
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

MEASURED_STEPS = 2
LONGEST_STEP = 60.0
"""Seconds: steps that would take longer are not measured, but estimated from a few images."""
SHORT = 1.0
"""Seconds: a pass that takes less is too short to estimate a step from."""
COST = re.compile(r"(\d+(?:\.\d+)?) s an epoch on one ([A-Z0-9][\w ]*?)(?= \(|[,;]|$)")
DECIDED = {"weight": "lambda"}
"""Keys of methods whose symbol in the papers says more."""


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    Attributes:
        steps: optimiser steps. seconds: in all; None if nothing is known. how: where the seconds come from.
        memory: bytes at the peak so far, if it was measured. disk: bytes of the run.
    """

    steps: int
    seconds: float | None
    how: str
    memory: int | None
    disk: int

    def lines(self) -> list[str]:
        """For people."""
        time_ = "time: not known" if self.seconds is None else f"time: about {duration(self.seconds)}, {self.how}"
        memory = f"memory: {self.memory / 1e6:.0f} MB at the peak" if self.memory else "memory: not measured"
        return [f"steps: {self.steps}", time_, f"{memory}; disk: {self.disk / 1e6:.1f} MB for the run"]


def decisions(parts: Parts) -> list[str]:
    """The method with its keys (lambda, q, the pair), the schedule and the projection, in lines."""
    settings = parts.settings
    keys = settings.method.model_dump(exclude={"name"})
    texts = [f"{DECIDED.get(key, key)} {_short(value)}" for key, value in keys.items()]
    lines = [f"method: {', '.join([settings.method.name, *texts])}"]
    try:
        found = parts.method.prepare(_no_probe, parts.start_norm)
    except _Probed:
        lines.append("the method measures the start before the first step and decides then")
    else:
        if "pair" in found:
            lines.append(f"pair: q is {found['pair'][0]}, r is {found['pair'][1]}")
    return [*lines, outline(settings)]


def outline(settings: Settings) -> str:
    """Optimiser, schedule and projection in a line."""
    schedule = settings.schedule.model_dump(exclude={"name"})
    texts = ", ".join(f"{key} {_short(value)}" for key, value in schedule.items() if value not in ((), []))
    projection = f"beta {settings.projection.beta:g} after each epoch" if settings.projection else "none"
    return (
        f"schedule: {settings.schedule.name}{f' ({texts})' if texts else ''}, {settings.optim.name}, "
        f"batch size {settings.train.batch_size}; gradient projection: {projection}"
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {one}" for key, one in value.items()) + "}"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list | tuple) else str(value)


class _Probed(Exception):
    pass


def _no_probe(_threat: Threat, _steps: int) -> NoReturn:
    raise _Probed


def cost(parts: Parts, about: About | None, *, weights_are_here: bool) -> Cost:
    """The cost of a training: measured on two batches if the weights are here, else as the recipe's header has it.

    The model is changed by the steps that are measured.

    Raises:
        RunError: there is not enough memory for a step, or the first loss is not finite.
    """
    steps = sum(one.steps for one in parts.passes)
    size = sum(tensor.numel() * tensor.element_size() for tensor in parts.model.state_dict().values())
    disk = copies_on_disk(parts.settings) * size
    if weights_are_here:
        parts.method.prepare(lambda _threat, _steps: 0.0, parts.start_norm)  # a step takes as long with any pair
        seconds, how = _measured(parts)
        return Cost(steps, seconds, how, _peak(parts.device), disk)
    return Cost(steps, *from_header(about, parts.settings.train.epochs), None, disk)


def on_a_card(parts: Parts) -> list[str]:
    """The memory that the training would take on an accelerator, and the batches that cards of usual sizes hold."""
    context = StepContext.of(
        parts.model, parts.settings, Meter(), parts.world, parts.seed, parts.device, helper=parts.helper
    )
    parts.method.prepare(lambda _threat, _steps: 0.0, parts.start_norm)
    room, own = context.room, parts.settings.train.batch_size // parts.world.size
    lines = footprint(parts, context).lines(own, room.rows, recompute=room.recompute)
    return [*lines, *_shares(parts)]


def _shares(parts: Parts) -> list[str]:
    """A line about the optimiser's state, if the processes share it out or would."""
    if not parts.settings.train.shard:
        return []
    whole, processes = optimizer_state(parts), parts.world.size
    if processes == 1:
        return [f"train.shard: the optimiser's state is {bytes_(whole)}; N processes of torchrun keep 1/N of it each"]
    return [f"train.shard: each of {processes} processes keeps {bytes_(whole // processes)} of the optimiser's state"]


def without_images(settings: Settings, spec: ModelSpec, world: World = ALONE) -> list[str]:
    """The memory that a training takes whose images and weights are not here; any of the same size take as much.

    The result is empty for a recipe with a helper, because the helper takes memory too and is not here.
    """
    if isinstance(settings.outer, Hat):
        return []
    n = settings.train.batch_size + 1
    settings = settings.model_copy(
        update={"extra": None, "selection": settings.selection.model_copy(update={"images": 1})}
    )
    labels = torch.arange(n) % spec.n_classes
    data = ImageData(
        torch.zeros(1, *spec.input_shape).expand(n, -1, -1, -1),
        labels,
        spec.n_classes,
        settings.dataset,
        "train",
        torch.arange(n),
    )
    say("counting the memory of a step ...")
    with kept_random():
        parts = build_parts(build(spec), spec, data, settings, seed=0, device=HOST, world=world, start_norm=spec.norm)
        return on_a_card(parts)


def from_header(about: About | None, epochs: int) -> tuple[float | None, str]:
    """Seconds of a training by its recipe's cost, and on what device."""
    found = COST.search(about.cost) if about else None
    if found is None:
        return None, ""
    return epochs * float(found[1]), f"on one {found[2]}, by the recipe: {found[1]} s an epoch"


def _measured(parts: Parts) -> tuple[float, str]:
    context = StepContext.of(
        parts.model, parts.settings, Meter(), parts.world, parts.seed, parts.device, helper=parts.helper
    )
    fit(parts, context)
    parts.model.train()
    kinds = list(dict.fromkeys(one.kind for one in parts.passes))
    firsts = {kind: next(one for one in parts.passes if one.kind == kind) for kind in kinds}
    counts = {kind: sum(one.steps for one in parts.passes if one.kind == kind) for kind in kinds}
    guess = _guess(parts, context)
    if guess > LONGEST_STEP:
        total = guess * counts["method"]
        return (
            total,
            f"{guess:.0f} s per step on {parts.device}, estimated from a few images (a step is too long to try)",
        )
    say("measuring two batches ...")
    means = {kind: _seconds_per_step(parts, context, firsts[kind]) for kind in kinds}
    total = sum(counts[kind] * means[kind] for kind in kinds)
    selection = parts.settings.train.epochs * _selection(parts)
    return total + selection, f"{means['method']:.3g} s per step on {parts.device}, measured on two batches"


def _seconds_per_step(parts: Parts, context: StepContext, one: Pass) -> float:
    """Mean time of two steps of a pass; a step before them, which is slower, does not count."""
    optimizer = optim.optimizer(parts.model, parts.settings.optim, parts.lr, parts.device, sharded=parts.sharded)
    gradients, begun = Gradients(parts, context, lambda line: None), 0.0
    for number in range(1 + MEASURED_STEPS):
        if number == 1:
            wait_for(parts.device)
            begun = time.monotonic()
        x, y = parts.batches.get(0, number % one.steps, *one.size, parts.world.part(one.phase.batch_size))
        step = Step(context, x, y, number)
        gradients.put(step, optimizer, one)
        optimizer.step()
    wait_for(parts.device)
    return (time.monotonic() - begun) / MEASURED_STEPS


def _selection(parts: Parts) -> float:
    """The seconds that selection takes per epoch, measured here by one selection."""
    begun = time.monotonic()
    parts.selector.measure(parts.model)
    parts.model.train()
    return time.monotonic() - begun


def _guess(parts: Parts, context: StepContext) -> float:
    """Seconds of a step: one forward and backward pass per step of the attack and two more, each timed on a few images.

    It takes two images, and more if they are fast. A pass also has costs that do not grow with the images (the first
    one loads what later ones need, and other programs hold it up), and these must not be counted for each image.
    """
    settings = parts.settings
    one = next(one for one in parts.passes if one.kind == "method")
    x, y = parts.batches.get(0, 0, *one.size, parts.world.part(one.phase.batch_size))
    seconds, few = 0.0, 1
    while seconds < SHORT and few < len(x):
        few = min(2 * few, len(x))
        seconds = _pass_seconds(parts, context, x[:few], y[:few])
    passes = max(settings.attack.steps.values()) + 2 if settings.attack else 2
    per_second = one.phase.batch_size * passes / few
    if seconds * per_second > LONGEST_STEP:  # perhaps this pass was the first in micro-batches, and loaded much
        seconds = min(seconds, _pass_seconds(parts, context, x[:few], y[:few]))
    whole = seconds * per_second
    return whole if is_host(parts.device) else 0.0  # on a GPU the steps themselves are fast enough to try


def _pass_seconds(parts: Parts, context: StepContext, x: Tensor, y: Tensor) -> float:
    """Seconds of a forward and backward pass of images (n, c, h, w)."""
    begun = time.monotonic()
    step = Step(context, x, y, 0)
    step.mean(step.natural()).backward()  # type: ignore[no-untyped-call]
    wait_for(parts.device)
    return time.monotonic() - begun


def _peak(device: torch.device) -> int:
    """Bytes at the peak: of the accelerator's memory, else of this process."""
    if not is_host(device):
        return memory_peak(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def published_row(chosen: Recipe, model: str | None) -> str | None:
    """The recipe whose paper reports a row for this model, if it is a sibling of the chosen one, as a hint."""
    if model is None or any(one.model == model for one in chosen.settings.reported):
        return None
    for name, settings in _siblings(chosen):
        for one in settings.reported:
            if one.model == model:
                return f"hint: the published row of {model} comes from --recipe {name} ({one.source})"
    return None


def _siblings(chosen: Recipe) -> Iterator[tuple[str, Settings]]:
    """The recipes of the same data set whose names go on from the chosen one's, as ramp-extra from ramp."""
    for name in recipes.names():
        if name.startswith(f"{chosen.settings.dataset}/{chosen.short_name}-"):
            try:
                yield name, recipes.load(name).settings
            except RobustctlError:
                continue
