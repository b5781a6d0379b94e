"""The only training loop. It never sees YAML, knows no method by name, and writes four things into the run directory:

``model.safetensors`` (last weights), ``best.safetensors`` (best by the selection split), ``metrics.jsonl``, ``state/``.

A position in the training is two numbers, pass and step; every random choice is a function of the seed and of them.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustctl import checkpoint
from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier
from robustctl.errors import InterruptedRun, RunError
from robustctl.files import writing
from robustctl.processes import World
from robustctl.progress import Advance, progress, say
from robustctl.recipe.schema import Settings
from robustctl.spec import ModelSpec
from robustctl.threats import Norm, Threat
from robustctl.training import optim, state_file
from robustctl.training.batches import Batches
from robustctl.training.guards import WATCHED_STEPS, Guards, StopRequest, stop_request
from robustctl.training.meter import Meter
from robustctl.training.methods import TrainingMethod
from robustctl.training.passes import Pass, plan
from robustctl.training.projection import GradientProjection
from robustctl.training.selection import Selector, pgd_accuracy
from robustctl.training.step import Step
from robustctl.training.step_context import Engine

METRICS = "metrics.jsonl"
BEST = "best.safetensors"
LOG_EVERY = 50
SAVE_SECONDS = 600.0


Listener = Callable[[dict[str, Any]], None]
"""Is called with every line of ``metrics.jsonl``, in the leading process."""


@dataclass(frozen=True)
class Outcome:
    """How far a training came. ``best`` holds the epoch (from 1) and accuracies of the best weights."""

    step: int
    best: dict[str, float] | None
    seconds: float


class Loop:
    """One training.

    Args:
        model: on its device; trained in place.
        lr: the recipe's learning rate for this architecture.
        start_norm: the norm that the model was trained for before, if one is known.
        directory: of the run; exists.
        save_seconds: least time between two saves of the state within an epoch.

    ``listeners`` may be added before ``run``.
    """

    def __init__(
        self,
        model: Classifier,
        spec: ModelSpec,
        settings: Settings,
        method: TrainingMethod,
        batches: Batches,
        selector: Selector,
        *,
        directory: Path,
        lr: float,
        seed: int,
        device: torch.device,
        world: World | None = None,
        start_norm: Norm | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.listeners: list[Listener] = []
        self.start_norm = start_norm
        self.model, self.spec, self.settings, self.method = model, spec, settings, method
        self.batches, self.selector, self.directory = batches, selector, directory
        self.lr, self.seed, self.device, self.save_seconds = lr, seed, device, save_seconds
        self.world = world or World()
        self.meter = Meter()
        self.guards = Guards(method.attacks, spec.n_classes)
        self.optimizers = {kind: optim.optimizer(model, settings.optim, lr, device) for kind in ("natural", "method")}
        self.projection = GradientProjection(settings.projection.beta) if settings.projection else None
        self.average = optim.WeightAverage(model, settings.average.decay) if settings.average else None
        self.passes = plan(settings, batches, method.replays, spec.input_shape[-1])
        self.at, self.step_in_pass, self.step = 0, 0, 0
        self.best: dict[str, float] | None = None
        self.check_accuracy = 0.0
        self.seconds, self.images, self.measured = 0.0, 0, time.monotonic()
        self.saved = time.monotonic()
        self.engine = Engine.of(model, settings, self.meter, self.world, seed, device)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(one.steps for one in self.passes)

    def done(self, max_steps: int | None = None) -> bool:
        """Whether everything is done, or ``max_steps`` steps are and no pass waits for its end."""
        if self.at == len(self.passes):
            return True
        waits = self.step_in_pass == self.passes[self.at].steps
        return max_steps is not None and self.step >= max_steps and not waits

    @property
    def kept(self) -> Classifier:
        """The model whose weights are selected and saved: the average where there is one."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def run(self, max_steps: int | None = None) -> Outcome:
        """Train from the present position to the end, or to ``max_steps`` steps since the beginning.

        Raises:
            RunError: a guard stopped it; the last good weights are in the directory.
            InterruptedRun: SIGTERM or Ctrl-C; everything is saved.
        """
        end = min(max_steps or self.steps, self.steps)
        self.measured = self.saved = time.monotonic()
        with kept_memory(), stop_request() as stop:
            if self.step == 0:
                self.save()  # whatever stops the run from here on, it can be resumed
                self._prepare(stop)
            self.model.train()
            self._clock()
            with progress("training", end, self.step) as advance:
                while not self.done(end):
                    self._one_pass(end, stop, advance)
        self.save()
        self.world.wait()
        return Outcome(self.step, self.best, self.seconds)

    def _prepare(self, stop: StopRequest) -> None:
        """Let the method look at the start, and save what it found; the model is as before afterwards."""
        start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        found = self.method.prepare(partial(self._probe, start, stop), self.start_norm)
        self.model.load_state_dict(start)
        if found:
            self._write({"kind": "prepare", **found})
            self.save(weights=False)
            if self.world.leads:
                say(f"decided before training: {json.dumps(found)}")

    def _probe(self, start: dict[str, Tensor], stop: StopRequest, threat: Threat, steps: int) -> float:
        """Robust accuracy in ``threat`` on the selection split after a short training on it alone."""
        self.model.load_state_dict(start)
        self.model.train()
        optimizer = optim.optimizer(self.model, self.settings.optim, self.lr, self.device)
        size = self.passes[0].size
        for number in range(steps):
            if self.world.any([stop.asked])[0]:
                raise InterruptedRun(
                    "interrupted while the method measured the start, before the first step; "
                    f"begin again with --resume --out {self.directory}"
                )
            x, y = self.batches.get(-1, number % self.batches.count(size[0]), *size, self.world.part(size[0]))
            step = Step(replace(self.engine, meter=Meter()), x, y, number)
            optimizer.zero_grad(set_to_none=True)
            step.mean(step.losses(step.attack(threat), threat.norm)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return replace(self.selector, threats=(threat,)).measure(self.model)[threat.norm]

    def _one_pass(self, end: int, stop: StopRequest, advance: Advance) -> None:
        this = self.passes[self.at]
        if self.step_in_pass == 0:
            self._begin(this)
        while self.step_in_pass < this.steps and self.step < end:
            self._one_step(this)
            self._look(this)
            advance(1, f"epoch {this.epoch + 1}")
            asked, due = self.world.any([stop.asked, time.monotonic() - self.saved > self.save_seconds])
            if asked:
                self._flush(this)
                self.save()
                raise InterruptedRun(
                    f"interrupted at step {self.step}; everything is saved, go on with --resume --out {self.directory}"
                )
            if due:
                self._flush(this)
                self.save(weights=False)
        if self.step_in_pass == this.steps:
            self._end(this)

    def _one_step(self, this: Pass) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.step) % 2**63)  # dropout and the like
        number, part = self.step_in_pass // self.method_replays(this), self.world.part(this.phase.batch_size)
        x, y = self.batches.get(self.at, number, *this.size, part)
        step = Step(self.engine, x, y, self.step, watch=self._done_alike(this) < WATCHED_STEPS)
        optimizer = self.optimizers["method" if this.kind == "method" else "natural"]
        lr = self._lr(this)
        optim.set_lr(optimizer, lr)
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(this, step)
        loss.backward()  # type: ignore[no-untyped-call]
        if this.kind == "method":
            self.method.after_backward(step)
        self.meter.add("loss", loss)
        self.meter.add("grad_norm", optim.grad_norm(self.model.parameters()))
        self.meter.add("lr", lr)
        optimizer.step()
        if self.average and this.kind == "method":
            self.average.update(self.model)
        self.images += this.phase.batch_size
        self.step += 1
        self.step_in_pass += 1

    def method_replays(self, this: Pass) -> int:
        """Optimiser steps on each batch of a pass."""
        return self.method.replays if this.kind == "method" else 1

    def _loss(self, this: Pass, step: Step) -> Tensor:
        loss = self.method.loss(step) if this.kind == "method" else step.mean(step.natural())
        if self.settings.regularize:
            loss = loss + optim.penalty(self.model, self.settings.regularize)
        return loss

    def _lr(self, this: Pass) -> float:
        if this.kind == "pretrain" and self.settings.pretrain:
            return self.settings.pretrain.lr
        epoch = this.epoch + self.step_in_pass / this.steps
        return self.lr * self.settings.schedule.factor(epoch, self.settings.train.epochs)

    def _done_alike(self, this: Pass) -> int:
        """Steps done in passes of the same kind as ``this``, the present one."""
        return sum(one.steps for one in self.passes[: self.at] if one.kind == this.kind) + self.step_in_pass

    def _look(self, this: Pass) -> None:
        """Read the meter now and then; each of the first steps is looked at, natural ones and the method's."""
        done = self._done_alike(this)
        if done <= WATCHED_STEPS or self.step % LOG_EVERY == 0:
            if done < WATCHED_STEPS:
                self.guards.check(self._means(), self.step)
            else:
                self._flush(this)

    def _begin(self, this: Pass) -> None:
        if this.kind == "natural" and self.projection:
            self.projection.begin(self.model)
        if this.kind == "method":
            self.method.start_epoch()

    def _end(self, this: Pass) -> None:
        """Finish a pass: merge, check, select, save."""
        self._flush(this)
        if self.projection and this.kind == "natural":
            self.projection.rewind(self.model)
        if self.projection and this.kind == "method":
            cosines = self.projection.merge(self.model)
            self._write({"kind": "projection", "step": self.step, "cosines": cosines})
        if this.kind == "method":
            self._check_overfitting(this)
            self._select(this)
        self.at += 1
        self.step_in_pass = 0
        self.save(weights=this.kind != "natural")
        self._clock()  # the images a second of the next line are those of training alone

    def _select(self, this: Pass) -> None:
        accuracies = self.selector.measure(self.kept)
        self._write({"kind": "selection", "epoch": this.epoch + 1, "step": self.step, **accuracies})
        if self.best is None or accuracies["union"] > self.best["union"]:
            self.best = {"epoch": float(this.epoch + 1), **accuracies}
            if self.world.leads:
                checkpoint.save_tensors(self.kept.net.state_dict(), self.directory / BEST)

    def _check_overfitting(self, this: Pass) -> None:
        check = self.settings.overfitting_check
        if check is None:
            return
        x, y = self.batches.get(self.at, 0, *this.size)
        labels = y.argmax(1) if y.dim() == 2 else y
        accuracies = [
            pgd_accuracy(self.model, x, labels, threat, check.steps, self.seed)
            for threat in self.settings.train_threats
        ]
        accuracy = min(accuracies)
        self._write({"kind": "overfitting-check", "epoch": this.epoch + 1, "pgd_accuracy": accuracy})
        if accuracy < self.check_accuracy - check.drop:
            raise RunError(
                f"catastrophic overfitting in epoch {this.epoch + 1}: PGD accuracy on a training batch fell from "
                f"{self.check_accuracy:.3f} to {accuracy:.3f}; the weights of epoch {this.epoch} are kept"
            )
        self.check_accuracy = max(self.check_accuracy, accuracy)

    def _flush(self, this: Pass) -> None:
        """Check and write what the meter holds."""
        means = self._means()
        if not means:
            return
        self.guards.check(means, self.step)
        rate = self.images / max(self._clock(), 1e-9)
        method_steps = self.meter.count("loss")
        own_shares = any(name.startswith("share/") for name in means)  # the method's: of images, not of batches
        shares = {
            name.replace("robust_error", "share"): self.meter.count(name) / method_steps
            for name in means
            if name.startswith("robust_error/") and not own_shares
        }
        line = {"kind": "steps", "pass": this.kind, "epoch": this.epoch + 1, "step": self.step, **means, **shares}
        self._write({**line, "images_per_second": round(rate, 1), "seconds": round(self.seconds, 2)})
        self.meter.clear()
        self.images = 0

    def _clock(self) -> float:
        """Seconds since the last look at the clock; they count as time of the training."""
        last, self.measured = self.measured, time.monotonic()
        self.seconds += self.measured - last
        return self.measured - last

    def _means(self) -> dict[str, float]:
        """What the meters of all processes hold, on average; all have the same names."""
        means = self.meter.means()
        if self.world.size == 1 or not means:
            return means
        values = torch.tensor(list(means.values()), dtype=torch.float64, device=self.device)
        return dict(zip(means, self.world.mean(values).tolist(), strict=True))

    def _write(self, line: dict[str, Any]) -> None:
        if self.world.leads:
            path = self.directory / METRICS
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            for listener in self.listeners:
                listener(line)

    def save(self, *, weights: bool = True) -> None:
        """Write the state and, between epochs, the last weights, which must be finite.

        ``model.safetensors`` stays that of the last epoch's end until the next one has passed its checks.
        """
        method = self.method.gathered_state(self.world)
        self._check_finite()
        self._clock()
        self.saved = time.monotonic()  # in every process: the first to find a save due makes all of them save
        if not self.world.leads:
            return
        if weights:
            checkpoint.save_model(self.kept, self.spec, self.directory)
        metrics = self.directory / METRICS
        state = {
            "at": [self.at, self.step_in_pass, self.step],
            "model": self.model.net.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "optimizers": {kind: one.state_dict() for kind, one in self.optimizers.items()},
            "projection": self.projection.state() if self.projection else None,
            "method": method,
            "guards": self.guards.state(),
            "meter": self.meter.state(),
            "best": self.best,
            "check_accuracy": self.check_accuracy,
            "seconds": self.seconds,
            "start_norm": self.start_norm,
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }
        state_file.save(self.directory, state)

    def _check_finite(self) -> None:
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()])
        if not finite.all():
            raise RunError(f"weights are not finite after step {self.step}; a smaller optim.lr usually helps")

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state; what ``metrics.jsonl`` holds beyond it is cut off."""
        self.at, self.step_in_pass, self.step = state["at"]
        self.model.net.load_state_dict(state["model"])
        if self.average and state["average"]:
            self.average.model.load_state_dict(state["average"])
        for kind, one in self.optimizers.items():
            one.load_state_dict(state["optimizers"][kind])
        if self.projection and state["projection"]:
            self.projection.load_state(state["projection"], self.device)
        self.method.load_state(state["method"], self.world)
        self.guards.load_state(state["guards"])
        self.meter.load_state(state["meter"])
        self.best, self.check_accuracy, self.seconds = state["best"], state["check_accuracy"], state["seconds"]
        self.start_norm = state["start_norm"]
        metrics = self.directory / METRICS
        if self.world.leads and metrics.exists():
            with writing(metrics), metrics.open("rb+") as file:
                file.truncate(state["metrics_bytes"])
