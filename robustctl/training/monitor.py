"""Reads the measurements of training now and then, checks them, and writes them into the metrics."""

import time
from typing import Any

import torch

from robustctl.training.guards import WATCHED_STEPS, Guards
from robustctl.training.meter import Meter
from robustctl.training.metrics_log import MetricsLog
from robustctl.training.parts import Parts
from robustctl.training.passes import Pass, Position

LOG_EVERY = 50


class Monitor:
    """The meter that the steps fill, the guards that its means must pass, and the clock.

    Attributes:
        seconds: what the training has taken up to now, over all its resumptions.
        images: seen since the last line of the metrics, by all processes.
    """

    def __init__(self, parts: Parts, log: MetricsLog) -> None:
        self.world, self.device, self.log = parts.world, parts.device, log
        self.meter = Meter()
        self.guards = Guards(parts.method.attacks, parts.spec.n_classes)
        self.seconds, self.images, self.measured = 0.0, 0, time.monotonic()

    def start_clock(self) -> None:
        """Count time from now on."""
        self.measured = time.monotonic()

    def count_time(self) -> float:
        """Add the time since the last look at the clock to the training's; returns it in seconds."""
        last, self.measured = self.measured, time.monotonic()
        self.seconds += self.measured - last
        return self.measured - last

    def look(self, position: Position) -> None:
        """Read the meter at each of the first steps of each kind of pass, later once in a while.

        Reading makes the host wait for the device, which costs time at every step.

        Raises:
            RunError: a guard stops the training.
        """
        done = position.steps_alike
        if done < WATCHED_STEPS:
            self.guards.check(self._means(), position.step)
        elif done == WATCHED_STEPS or position.step % LOG_EVERY == 0:
            self.flush(position)

    def before_save(self, position: Position) -> None:
        """Empty the meter, but not among the first steps: the guards judge these together, whenever a state is saved.

        Raises:
            RunError: a guard stops the training.
        """
        if position.steps_alike > WATCHED_STEPS:
            self.flush(position)  # else the state takes the meter with it

    def flush(self, position: Position) -> None:
        """Check what the meter holds, write it as one line, and empty the meter.

        Raises:
            RunError: a guard stops the training.
        """
        means = self._means()
        if not means:
            return
        self.guards.check(means, position.step)
        rate = self.images / max(self.count_time(), 1e-9)
        line = {**_place(position.present, position.step), **means, **self._shares(means)}
        self.log.write({**line, "images_per_second": round(rate, 1), "seconds": round(self.seconds, 2)})
        self.meter.clear()
        self.images = 0

    def _shares(self, means: dict[str, float]) -> dict[str, float]:
        """Each norm's share of the batches; none if the method has reported its own shares, which are of images."""
        if any(name.startswith("share/") for name in means):
            return {}
        steps = self.meter.count("loss")
        errors = [name for name in means if name.startswith("robust_error/")]
        return {name.replace("robust_error", "share"): self.meter.count(name) / steps for name in errors}

    def _means(self) -> dict[str, float]:
        """The means of the meters of all processes, which hold the same names."""
        means = self.meter.means()
        if self.world.size == 1 or not means:
            return means
        values = torch.tensor(list(means.values()), dtype=torch.float64, device=self.device)
        return dict(zip(means, self.world.mean(values).tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        return {"guards": self.guards.state(), "meter": self.meter.state(), "seconds": self.seconds}

    def load_state(self, state: dict[str, Any]) -> None:
        self.guards.load_state(state["guards"])
        self.meter.load_state(state["meter"])
        self.seconds = state["seconds"]


def _place(this: Pass, step: int) -> dict[str, Any]:
    return {"kind": "steps", "pass": this.kind, "epoch": this.epoch + 1, "step": step}
