"""Tells people how a training goes: the note of the progress line, and one line per epoch that stays."""

from typing import Any

from robustctl.progress import say
from robustctl.threats import NORMS

ERROR = "robust_error/"
"""The measurements of ``Step.record_error`` begin with it."""


class Watch:
    """A listener of the metrics. It reads nothing from the device: it knows what was written last.

    Args:
        epochs: of the whole training.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.last: dict[str, Any] = {}
        self.best: tuple[float, int] | None = None

    def __call__(self, line: dict[str, Any]) -> None:
        """Take note of one line of the metrics; a selection prints the line of its epoch."""
        if line["kind"] == "steps":
            self.last = line
        elif line["kind"] == "selection":
            if self.best is None or line["union"] > self.best[0]:
                self.best = (line["union"], line["epoch"])
            say(self.epoch_line(line))

    def resume(self, best: dict[str, float] | None) -> None:
        """Know the best epoch of a training that goes on."""
        self.best = (best["union"], int(best["epoch"])) if best else None

    def note(self, epoch: int) -> str:
        """``epoch 3, loss 0.52, linf 61 %, l1 54 %, 2300 images/s, best union 52.0 %``: as last measured."""
        parts = [f"epoch {epoch}", *self._training()]
        return ", ".join([*parts, f"best union {100 * self.best[0]:.1f} %"] if self.best else parts)

    def epoch_line(self, selection: dict[str, Any]) -> str:
        """The line of an epoch: its training, its accuracies on the held-out images, the best epoch so far."""
        names = ["clean", *(norm for norm in NORMS if norm in selection), "union"]
        held_out = ", ".join(f"{name} {100 * selection[name]:.1f}" for name in names)
        best = f"; best union {100 * self.best[0]:.1f} in epoch {self.best[1]}" if self.best else ""
        training = "".join(f"{part}, " for part in self._training())
        return f"epoch {selection['epoch']}/{self.epochs}: {training}held out {held_out} %{best}"

    def _training(self) -> list[str]:
        """Loss, robust accuracy in each threat on the training batches, speed; what was not measured is left out."""
        if not self.last:
            return []
        errors = {name.partition("/")[2]: value for name, value in self.last.items() if name.startswith(ERROR)}
        names = [*(norm for norm in NORMS if norm in errors), *(name for name in errors if name not in NORMS)]
        robust = [f"{name} {100 * (1 - errors[name]):.0f} %" for name in names]
        return [f"loss {self.last['loss']:.3g}", *robust, f"{self.last['images_per_second']:.0f} images/s"]
