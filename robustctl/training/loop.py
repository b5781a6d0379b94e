"""The only training loop. It never sees YAML, knows no method by name, and writes four things into the run directory:

``model.safetensors`` (last weights), ``best.safetensors`` (best by the selection split), ``metrics.jsonl``, ``state/``.

A position in the training is two numbers, pass and step; every random choice is a function of the seed and of them.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustctl import checkpoint
from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier
from robustctl.checkpoint import weights_sha256
from robustctl.errors import InterruptedRun, RequestError
from robustctl.progress import Advance, progress, say
from robustctl.training import optim, state_file
from robustctl.training.footprint import fit
from robustctl.training.gradients import Gradients
from robustctl.training.guards import WATCHED_STEPS, StopSignal, require_finite, stop_signal
from robustctl.training.metrics_log import Listener, MetricsLog
from robustctl.training.monitor import Monitor
from robustctl.training.parts import Parts
from robustctl.training.passes import Pass, Position
from robustctl.training.probe import StartProbe
from robustctl.training.projection import GradientProjection
from robustctl.training.selection import OverfittingGuard
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext
from robustctl.training.watch import Watch

BEST = "best.safetensors"
SAVE_SECONDS = 600.0


@dataclass(frozen=True)
class Outcome:
    """How far a training came. ``best`` holds the epoch (from 1) and accuracies of the best weights."""

    step: int
    best: dict[str, float] | None
    seconds: float


class Loop:
    """One training.

    Args:
        parts: what is trained, on what and how.
        directory: of the run; it exists.
        listeners: are called with every line of the metrics.
        save_seconds: least time between two saves of the state within an epoch.
    """

    def __init__(
        self, parts: Parts, directory: Path, listeners: Sequence[Listener] = (), save_seconds: float = SAVE_SECONDS
    ) -> None:
        self.parts, self.directory, self.save_seconds = parts, directory, save_seconds
        self.model, self.settings, self.method, self.world = parts.model, parts.settings, parts.method, parts.world
        self.position = Position(parts.passes)
        self.watch = Watch(self.settings.train.epochs)
        self.log = MetricsLog(directory, [*listeners, self.watch], self.world.leads)
        self.monitor = Monitor(parts, self.log)
        self.context = StepContext.of(
            self.model,
            self.settings,
            self.monitor.meter,
            self.world,
            parts.seed,
            parts.device,
            self.log.write,
            parts.helper,
        )
        self.gradients = Gradients(parts, self.context, self.log.write)
        self.optimizers = {
            kind: optim.optimizer(self.model, self.settings.optim, parts.lr, parts.device, sharded=parts.sharded)
            for kind in ("natural", "method")
        }
        self.projection = GradientProjection(self.settings.projection.beta) if self.settings.projection else None
        self.average = optim.WeightAverage(self.model, self.settings.average.decay) if self.settings.average else None
        check = self.settings.overfitting_check
        self.overfitting = OverfittingGuard(check, self.settings.train_threats, parts.seed) if check else None
        self.start_norm = parts.start_norm
        self.best: dict[str, float] | None = None
        self.saved = time.monotonic()

    @property
    def kept(self) -> Classifier:
        """The model whose weights are selected and saved: their average, if the recipe asks for one."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def run(self, max_steps: int | None = None) -> Outcome:
        """Train from the present position to the end, or to ``max_steps`` steps since the beginning.

        Raises:
            RunError: a guard stopped it; the last good weights are in the directory.
            InterruptedRun: SIGTERM or Ctrl-C; everything is saved.
        """
        end = min(max_steps or self.position.steps, self.position.steps)
        self.monitor.start_clock()
        self.saved = time.monotonic()
        with kept_memory(), stop_signal() as stop:
            if self.position.step == 0:
                self._choose_precision()
                self._fit()
                self.save()  # whatever stops the run from here on, it can be resumed
                self._prepare(stop)
            self.model.train()
            self.monitor.count_time()
            with progress("training", end, self.position.step) as advance:
                while not self.position.is_done(end):
                    self._begin_pass()
                    self._steps(end, stop, advance)
                    if self.position.pass_is_done:
                        self._finish_pass()
        self.save()
        self.world.wait()
        return Outcome(self.position.step, self.best, self.monitor.seconds)

    def _choose_precision(self) -> None:
        """Time the first batch each way if the recipe leaves the precision open and the device has a choice."""
        if self.context.autocast.open:
            first = self._next_batch(self.position.present).x
            self.context.autocast.decide(self.model, first, self.world, self.log.write)

    def _fit(self) -> None:
        """Decide how many images go through the network at once if the recipe leaves it open."""
        if self.settings.train.micro_batch == "auto":
            fit(self.parts, self.context)
            self.log.write({"kind": "memory", "step": 0, **self.context.room.state()})

    def _prepare(self, stop: StopSignal) -> None:
        """Let the method look at the start, and save what it found; the model is as before afterwards."""
        probe = StartProbe(self.parts, self.context, stop, self.directory)
        found = self.method.prepare(probe.robust_accuracy, self.start_norm)
        probe.rewind()
        if found:
            self.log.write({"kind": "prepare", **found})
            self.save(weights=False)
            if self.world.leads:
                say(f"decided before training: {json.dumps(found)}")

    def _begin_pass(self) -> None:
        this = self.position.present
        if self.position.step_in_pass > 0:  # a resumed training is in the middle of it
            return
        if this.kind == "natural" and self.projection:
            self.projection.begin(self.model)
        if this.kind == "method":
            self.method.start_epoch()

    def _steps(self, end: int, stop: StopSignal, advance: Advance) -> None:
        """The steps of the present pass that are left, but no more than up to step ``end``."""
        this = self.position.present
        while not self.position.pass_is_done and self.position.step < end:
            self._one_step(this)
            self.monitor.look(self.position)
            advance(1, self.watch.note(this.epoch + 1))
            self._save_if_due(stop)

    def _one_step(self, this: Pass) -> None:
        """One step of the optimiser on one batch; then the position is one step further."""
        step = self._next_batch(this)
        optimizer = self.optimizers["method" if this.kind == "method" else "natural"]
        lr = self._lr(this)
        optim.set_lr(optimizer, lr)
        self.gradients.put(step, optimizer, this)
        step.record("grad_norm", optim.grad_norm(self.model.parameters()))
        step.record("lr", lr)
        optimizer.step()
        if self.average and this.kind == "method":
            self.average.update(self.model)
        self.monitor.images += this.phase.batch_size
        self.position.next_step()

    def _next_batch(self, this: Pass) -> Step:
        """The step on the next batch; a method with replays takes several steps on each batch."""
        replays = self.method.replays if this.kind == "method" else 1
        part = self.world.part(this.phase.batch_size)
        x, y = self.parts.batches.get(self.position.at, self.position.step_in_pass // replays, *this.size, part)
        return Step(self.context, x, y, self.position.step, watch=self.position.steps_alike < WATCHED_STEPS)

    def _lr(self, this: Pass) -> float:
        if this.kind == "pretrain" and self.settings.pretrain:
            return self.settings.pretrain.lr
        epoch = this.epoch + self.position.step_in_pass / this.steps
        return self.parts.lr * self.settings.schedule.factor(epoch, self.settings.train.epochs)

    def _finish_pass(self) -> None:
        """Project, check, select, save."""
        this = self.position.present
        self.monitor.flush(self.position)
        self._project(this)
        if this.kind == "method":
            self._check_overfitting(this)
            self._select(this)
        self.position.next_pass()
        self.save(weights=this.kind != "natural")
        self.monitor.count_time()  # so that the images per second of the next line are training's alone

    def _project(self, this: Pass) -> None:
        """After a natural pass go back to its start; after the method's pass merge the movements of both."""
        if self.projection and this.kind == "natural":
            self.projection.rewind(self.model)
        if self.projection and this.kind == "method":
            cosines = self.projection.merge(self.model)
            self.log.write({"kind": "projection", "step": self.position.step, "cosines": cosines})

    def _check_overfitting(self, this: Pass) -> None:
        if self.overfitting is None:
            return
        accuracy = self.overfitting.measure(self.model, *self.parts.batches.get(self.position.at, 0, *this.size))
        self.log.write({"kind": "overfitting-check", "epoch": this.epoch + 1, "pgd_accuracy": accuracy})
        self.overfitting.judge(accuracy, this.epoch + 1)

    def _select(self, this: Pass) -> None:
        """Keep the weights if no epoch before had a higher accuracy in the union."""
        accuracies = self.parts.selector.measure(self.kept)
        self.log.write({"kind": "selection", "epoch": this.epoch + 1, "step": self.position.step, **accuracies})
        if self.best is None or accuracies["union"] > self.best["union"]:
            self.best = {"epoch": float(this.epoch + 1), **accuracies}
            if self.world.leads:
                checkpoint.save_tensors(self.kept.net.state_dict(), self.directory / BEST)

    def _save_if_due(self, stop: StopSignal) -> None:
        """Save if the last save is long ago, and stop if that was asked; all processes do the same."""
        asked, due = self.world.any([stop.asked, time.monotonic() - self.saved > self.save_seconds])
        if asked or due:
            self.monitor.before_save(self.position)
            self.save(weights=asked)
        if asked:
            raise InterruptedRun(
                f"interrupted at step {self.position.step}; everything is saved, "
                f"go on with --resume --out {self.directory}"
            )

    def save(self, *, weights: bool = True) -> None:
        """Write the state and, between epochs, the last weights, which must be finite.

        ``model.safetensors`` keeps the last epoch's weights until the next epoch has passed its checks.
        """
        method = self.method.gathered_state(self.world)
        optimizers = {kind: optim.whole_state(one, leads=self.world.leads) for kind, one in self.optimizers.items()}
        require_finite(self.model, self.position.step)
        self.monitor.count_time()
        self.saved = time.monotonic()  # in every process: the first to find a save due makes all of them save
        if not self.world.leads:
            return
        if weights:
            checkpoint.save_model(self.kept, self.parts.spec, self.directory)
        state = {
            "at": self.position.state(),
            "model": self.model.net.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "optimizers": optimizers,
            "projection": self.projection.state() if self.projection else None,
            "method": method,
            **self.monitor.state(),
            "best": self.best,
            "check_accuracy": self.overfitting.best if self.overfitting else 0.0,
            "start_norm": self.start_norm,
            "attacked": self.context.attacked.state(),
            "bfloat16": self.context.autocast.state(),
            "helper": weights_sha256(self.parts.helper) if self.parts.helper else None,
            "room": self.context.room.state(),
            "metrics_bytes": self.log.size(),
        }
        state_file.save(self.directory, state)

    def resume(self) -> None:
        """Go to the position that is saved in the directory, if one is; the metrics written after it are cut off.

        Raises:
            RequestError: the saved state is damaged.
        """
        state = state_file.load(self.directory)
        if state is not None:
            self._load_state(state)

    def _load_state(self, state: dict[str, Any]) -> None:
        if self.parts.helper and state["helper"] != weights_sha256(self.parts.helper):
            raise RequestError("outer.helper: its weights are not the ones that this run began with")
        self.position.load_state(state["at"])
        self.model.net.load_state_dict(state["model"])
        if self.average and state["average"]:
            self.average.model.load_state_dict(state["average"])
        for kind, one in self.optimizers.items():
            optim.load_state(one, state["optimizers"][kind])
        if self.projection and state["projection"]:
            self.projection.load_state(state["projection"], self.parts.device)
        self.method.load_state(state["method"], self.world)
        self.monitor.load_state(state)
        self.context.attacked.load_state(state.get("attacked"))  # an earlier version had no copy
        self.context.autocast.load_state(state.get("bfloat16"))
        self.context.room.load_state(state.get("room"))
        if self.overfitting:
            self.overfitting.best = state["check_accuracy"]
        self.best, self.start_norm = state["best"], state["start_norm"]
        self.watch.resume(self.best)
        self.log.cut(state["metrics_bytes"])
