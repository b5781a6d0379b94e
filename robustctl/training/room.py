"""How much of a batch the device takes at once, and what gives way when its memory runs out."""

import math
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustctl.devices import release_memory
from robustctl.errors import RequestError, RunError
from robustctl.pieces import NO_LIMIT, Pieces
from robustctl.recipe.schema import Settings
from robustctl.training.recompute import blocks_of


class Room:
    """The room that a training takes.

    Args:
        compiled: the network is compiled as a whole, so that no block of it can be computed twice.

    Attributes:
        rows: the most images that go through the network at once in training's own passes.
        recompute: whether the blocks are computed twice instead of kept (activation checkpointing).
        attacks: the pieces in which attacks take a batch; in eval mode images do not touch each other.
        blocks: of the network; empty if it has none, or is compiled.
    """

    def __init__(
        self, model: nn.Module, rows: int = NO_LIMIT, *, recompute: bool = False, compiled: bool = False
    ) -> None:
        self.rows, self.recompute = rows, recompute
        self.attacks = Pieces(self.rows)
        self.blocks = [] if compiled else blocks_of(model)
        self.has_batch_norms = any(isinstance(module, _BatchNorm) for module in model.modules())
        if self.recompute and not self.blocks:
            raise RequestError("train.checkpoint: this network has no repeated blocks to compute twice")

    @classmethod
    def of(cls, model: nn.Module, settings: Settings) -> "Room":
        """The room that a recipe asks for; ``auto`` begins with whole batches.

        Raises:
            RequestError: the network has no blocks to compute twice.
        """
        asked = settings.train.micro_batch
        rows = asked if isinstance(asked, int) else NO_LIMIT
        return cls(model, rows, recompute=settings.train.checkpoint, compiled=settings.compile)

    def parts(self, n: int) -> list[slice]:
        """Consecutive parts of a batch of n images, of nearly equal size; each goes through at once."""
        count = max(-(-n // self.rows), 1)
        size, longer = divmod(n, count)
        bounds = [i * size + min(i, longer) for i in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(bounds)]

    def give_way(self, batch: int) -> str:
        """Take less room from the next step on; returns what gives way, for people.

        Args:
            batch: images of the batch that did not fit.

        Raises:
            RunError: a single image does not fit.
        """
        release_memory()
        if self.has_batch_norms and self.blocks and not self.recompute:
            self.recompute = True  # first, because this changes no result and smaller parts do
            return "the network's blocks are computed twice from here on (train.checkpoint: true); no result changes"
        rows = min(self.rows, batch)
        if rows == 1:
            raise RunError("out of memory with a single image; what was done is kept")
        self.rows = math.ceil(rows / 2)
        effect = "batch norms take their statistics over these" if self.has_batch_norms else "no result changes"
        return f"the network takes {self.rows} images at once from here on (train.micro_batch: {self.rows}); {effect}"

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "recompute": self.recompute, "attacks": self.attacks.size}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Take as much room as before; None is the state of a version without micro-batches."""
        if state is not None:
            self.rows, self.recompute, self.attacks.size = state["rows"], state["recompute"], state["attacks"]
