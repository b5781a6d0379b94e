"""Guards stop a training that cannot succeed, and signals stop it on request."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

from robustctl.errors import RunError

WATCHED_STEPS = 5
"""First steps of the method in which the attack must do something."""
EXPLOSION = 10.0
"""The loss has exploded if its mean is this many times the first steps' mean (or a blind guess's loss, if larger)."""


class Guards:
    """Checks the means that the loop reads from its meter anyway.

    Args:
        attacks: whether points of higher loss are looked for at all.
    """

    def __init__(self, attacks: bool, n_classes: int) -> None:
        self.attacks = attacks
        self.guess = math.log(n_classes)
        self.first_loss: float | None = None

    def check(self, means: dict[str, float], step: int) -> None:
        """Raise RunError if training must stop. ``step`` counts the steps done."""
        loss = means.get("loss", 0.0)
        if not math.isfinite(loss) or not math.isfinite(means.get("grad_norm", 0.0)):
            raise RunError(f"the loss is not finite (by step {step}); a smaller optim.lr usually helps")
        if self.first_loss is None:
            self.first_loss = loss
        limit = EXPLOSION * max(self.first_loss, self.guess)
        if loss > limit:
            raise RunError(
                f"the loss exploded: {loss:.4g} by step {step}, {self.first_loss:.4g} in the first steps; "
                "a smaller optim.lr usually helps"
            )
        if self.attacks:
            self._check_attack(means)

    def _check_attack(self, means: dict[str, float]) -> None:
        if means.get("perturbation") == 0.0:
            raise RunError("the attack perturbs nothing: every adversarial image equals its clean one")
        clean, adversarial = means.get("watch/clean"), means.get("watch/adversarial")
        if clean is not None and adversarial is not None and adversarial <= clean:
            raise RunError(
                f"the attack does not attack: adversarial loss {adversarial:.4f}, clean loss {clean:.4f} in the first "
                "steps; check attack and train.threats"
            )

    def state(self) -> dict[str, Any]:
        return {"first_loss": self.first_loss}

    def load_state(self, state: dict[str, Any]) -> None:
        self.first_loss = state["first_loss"]


def require_finite(model: nn.Module, step: int) -> None:
    """Raise RunError if a weight is infinite or not a number after ``step`` steps."""
    finite = torch.stack([parameter.isfinite().all() for parameter in model.parameters()])
    if not finite.all():
        raise RunError(f"weights are not finite after step {step}; a smaller optim.lr usually helps")


class StopSignal:
    """Whether SIGTERM, Ctrl-C or the end of the terminal (SIGHUP) has come."""

    def __init__(self) -> None:
        self.asked = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt  # somebody asks twice: now. A terminal that is closed may send its signal twice
        self.asked = True


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Collect requests to stop while the block runs, so that no step is cut in half."""
    request = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup forbids it
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, request._note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
