"""Short trainings before the first step, by which a method may decide how to train."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from robustctl.errors import InterruptedRun
from robustctl.threats import Threat
from robustctl.training import optim
from robustctl.training.guards import StopSignal
from robustctl.training.meter import Meter
from robustctl.training.parts import Parts
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext


class StartProbe:
    """Trains from the start for a few steps and measures what came of it; each call begins at the start again.

    Args:
        directory: of the run, for the message to somebody who interrupts the probe.
    """

    def __init__(self, parts: Parts, context: StepContext, stop: StopSignal, directory: Path) -> None:
        self.parts, self.stop, self.directory = parts, stop, directory
        self.context = replace(context, meter=Meter())  # these steps are no steps of the training
        self.start: dict[str, Tensor] = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}

    def rewind(self) -> None:
        """Take the model back to the start."""
        self.parts.model.load_state_dict(self.start)

    def robust_accuracy(self, threat: Threat, steps: int) -> float:
        """Robust accuracy in ``threat`` on the selection split after ``steps`` steps of training on it alone.

        Raises:
            InterruptedRun: SIGTERM or Ctrl-C.
        """
        parts = self.parts
        self.rewind()
        parts.model.train()
        optimizer = optim.optimizer(parts.model, parts.settings.optim, parts.lr, parts.device, sharded=parts.sharded)
        size = parts.passes[0].size
        for number in range(steps):
            self._require_no_stop()
            at = number % parts.batches.count(size[0])
            x, y = parts.batches.get(-1, at, *size, parts.world.part(size[0]))
            step = Step(self.context, x, y, number)
            optimizer.zero_grad(set_to_none=True)
            step.mean(step.losses(step.attack(threat), threat.norm)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return replace(parts.selector, threats=(threat,)).measure(parts.model)[threat.norm]

    def _require_no_stop(self) -> None:
        if self.parts.world.any([self.stop.asked])[0]:
            raise InterruptedRun(
                "interrupted while the method measured the start, before the first step; "
                f"begin again with --resume --out {self.directory}"
            )
