"""The network that the attacks of a training run on: a fast copy that takes over the weights before every attack.

Attacks see the model in eval mode, with weights that do not change meanwhile. So batch norms can be folded for them,
which the passes of training, in training mode and with gradients of the weights, do not allow. Whether the copy may
stand for the model is asked once a run, at its first attack; the answer is kept with the state of the training, so that
a run that goes on attacks what it attacked before.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustctl.fast_copy import FastCopy
from robustctl.oracle import Oracle
from robustctl.pieces import NO_LIMIT, Pieces
from robustctl.processes import World
from robustctl.progress import say
from robustctl.trusted_copy import Trusted, trusted_copy

Tell = Callable[[dict[str, Any]], None]
"""Is called once, with the line for the metrics that says what is attacked."""


class Attacked:
    """Makes the oracles of a training's attacks.

    Args:
        model: the classifier that is trained.
        world: the first process decides for all.
        pieces: in which attacks take a batch; None: whole, or smaller after memory has run out.
    """

    def __init__(
        self, model: nn.Module, world: World, tell: Tell = lambda line: None, pieces: Pieces | None = None
    ) -> None:
        self.model, self.world, self.tell = model, world, tell
        self.pieces = pieces or Pieces(NO_LIMIT)
        self.reason: str | None = None  # why not the copy, "" if it is the copy, None if nobody has asked yet
        self._trusted: Trusted | None = None

    def oracle(self, x: Tensor) -> Oracle:
        """An oracle of the model with its present weights.

        Args:
            x: the images (n, c, h, w) that will be attacked; the first time, copy and model are compared on some.
        """
        if self._trusted is None:
            with torch.autocast(x.device.type, enabled=False):
                self._trusted = self._compare(x) if self.reason is None else self._as_before(x, self.reason)
        self._trusted.refresh()
        return Oracle(self.model, self._trusted if self._trusted.copied else None, pieces=self.pieces)

    def _compare(self, x: Tensor) -> Trusted:
        trusted = trusted_copy(self.model, "float32", x)
        reason = trusted.reason
        if trusted.copy is not None and not trusted.copy.refreshable:
            reason = "it cannot take over weights that change"
        self.reason = self.world.broadcast(reason)
        assert self.reason is not None
        if self.reason and self.world.leads:
            say(f"the attacks of this training run on {Trusted(self.model, 'float32', False, self.reason)}")
        self.tell({"kind": "attacked", "fast_copy": not self.reason, "reason": self.reason})
        return Trusted(self.model, "float32", False, self.reason) if self.reason else trusted

    def _as_before(self, x: Tensor, reason: str) -> Trusted:
        if reason:
            return Trusted(self.model, "float32", False, reason)
        copy = FastCopy(self.model, "float32", x[:1])
        return Trusted(copy.network, "float32", True, copy=copy)

    def state(self) -> str | None:
        """The decision, for the state of the training."""
        return self.reason

    def load_state(self, state: str | None) -> None:
        """Go by what was decided before, without a new comparison."""
        self.reason, self._trusted = state, None
