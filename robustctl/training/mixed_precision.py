"""The precision of training's own passes: float32 or bfloat16, and on an accelerator what is faster there.

On the host ``auto`` is float32 without a measurement, so that a seed gives the same weights on every run. An
accelerator's runs differ anyway. There a pass of training is timed each way once, at the start of a run; the choice is
in the run's metrics and in its state, so that a run that goes on computes as it began.
"""

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.devices import has_bf16, is_host, kept_random, out_of_memory, wait_for
from robustctl.modes import kept_modes
from robustctl.processes import World
from robustctl.progress import say
from robustctl.recipe.schema import Settings
from robustctl.training.attacked import Tell

ROWS = 64
"""Images of a timed pass, at most."""
NAMES = ("bfloat16", "float32")


class MixedPrecision:
    """Makes the context of each pass.

    Attributes:
        low: whether passes are in bfloat16.
        open: whether ``auto`` has a choice here that nobody has made yet.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.device, self.auto = device, settings.precision == "auto"
        self.chooses = self.auto and not is_host(device) and has_bf16(device)
        self.open = self.chooses and not settings.compile  # two compilations would take longer than they tell
        self.low = settings.precision == "bfloat16" or self.chooses

    def __call__(self) -> AbstractContextManager[None]:
        return self._context(self.low)

    def decide(self, model: nn.Module, x: Tensor, world: World, tell: Tell) -> None:
        """Time a pass of training each way and take the faster, once in a run; weights and statistics stay.

        If memory runs out meanwhile, bfloat16 stays, which takes less.

        Args:
            x: the first batch (n, c, h, w). world: the first process decides for all.
            tell: takes the line for the metrics that says what was measured.
        """
        if not self.open:
            return
        self.open = False
        seconds = world.broadcast(self._measure(model, x[:ROWS]))
        if seconds is None:
            return
        self.low = seconds["bfloat16"] <= seconds["float32"]
        tell({"kind": "precision", "bfloat16": self.low, "pass_seconds": seconds})
        if world.leads:
            taken = ", ".join(f"{1000 * one:.3g} ms in {name}" for name, one in seconds.items())
            say(f"a training pass of {len(x[:ROWS])} images takes {taken}")

    def _measure(self, model: nn.Module, x: Tensor) -> dict[str, float] | None:
        try:
            turns = [{name: self._seconds(model, x, name == "bfloat16") for name in NAMES} for _ in range(3)][1:]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        return {name: min(one[name] for one in turns) for name in NAMES}

    def _seconds(self, model: nn.Module, x: Tensor, low: bool) -> float:
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with kept_random(self.device), kept_modes(model), torch.enable_grad():
            model.train()
            wait_for(self.device)
            start = time.perf_counter()
            with self._context(low):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), torch.zeros(len(x), dtype=torch.long, device=x.device))
            torch.autograd.grad(loss, trained, allow_unused=True)
            wait_for(self.device)
            seconds = time.perf_counter() - start
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return seconds

    def _context(self, low: bool) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()

    def state(self) -> bool:
        """The choice, for the state of the training."""
        return self.low

    def load_state(self, state: bool | None) -> None:
        """Go on as before, without a new measurement; an earlier version took bfloat16 unasked and kept no choice."""
        self.open = False
        if self.chooses and state is not None:
            self.low = state
