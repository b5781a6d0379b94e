"""A step that is done again after memory has run out, from where it began."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from robustctl.devices import out_of_memory
from robustctl.training.meter import Meter
from robustctl.training.methods import TrainingMethod

Result = TypeVar("Result")


class Kept:
    """Values that a try of a step changes besides gradients: buffers, the method's memory, the meter."""

    def __init__(self, model: nn.Module, method: TrainingMethod, meter: Meter) -> None:
        self.model, self.method, self.meter = model, method, meter
        self.buffers = [buffer.clone() for buffer in model.buffers()]
        self.remembered, self.measured = method.remembered(), meter.kept()

    def restore(self) -> None:
        """Set all of it back."""
        with torch.no_grad():
            for buffer, old in zip(self.model.buffers(), self.buffers, strict=True):
                buffer.copy_(old)
        self.method.recall(self.remembered)
        self.meter.go_back(self.measured)


def retried(work: Callable[[], Result], give_way: Callable[[RuntimeError], None]) -> Result:
    """Do ``work`` until memory holds it; ``give_way`` is called before each new try."""
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            reason = RuntimeError(str(error))
        # Only here, outside the handler, is the error gone, and with its traceback all that the failed try held.
        give_way(reason)
