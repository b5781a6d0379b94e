"""The network that the attacks of a training run on: a fast copy that takes over the weights before every attack.

Attacks see the model in eval mode, with weights that do not change meanwhile. So batch norms can be folded for them,
which the passes of training, in training mode and with gradients of the weights, do not allow. Whether the copy may
stand for the model is asked once a run, at its first attack; the answer is kept with the state of the training, so that
a run that goes on attacks what it attacked before.

The copy can also be compiled. On the first batch, compiled code and the copy as it is must then agree up to rounding.
A run that goes on compiles again, to the same code.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustctl.fast_copy import FastCopy
from robustctl.oracle import Oracle
from robustctl.pieces import NO_LIMIT, Pieces
from robustctl.processes import World
from robustctl.progress import say
from robustctl.training.compiled import Compiled
from robustctl.trusted_copy import TOLERANCES, Trusted, difference_on_batch, trusted_copy

Tell = Callable[[dict[str, Any]], None]
"""Is called with the lines for the metrics that say what is attacked, each once."""


class Attacked:
    """Makes the oracles of a training's attacks.

    Args:
        model: the classifier that is trained.
        world: the first process decides for all.
        pieces: in which attacks take a batch; None: whole, or smaller after memory has run out.
        compiled: compile the copy.
    """

    def __init__(
        self,
        model: nn.Module,
        world: World,
        tell: Tell = lambda line: None,
        pieces: Pieces | None = None,
        compiled: bool = False,
    ) -> None:
        self.model, self.world, self.tell, self.compiled = model, world, tell, compiled
        self.pieces = pieces or Pieces(NO_LIMIT)
        self.reason: str | None = None  # why not the copy, "" if it is the copy, None if nobody has asked yet
        self._trusted: Trusted | None = None
        self._compiled: Compiled | None = None

    def oracle(self, x: Tensor) -> Oracle:
        """An oracle of the model with its present weights.

        Args:
            x: the images (n, c, h, w) that will be attacked; the first time, copy and model are compared on some.
        """
        if self._trusted is None:
            with torch.autocast(x.device.type, enabled=False):
                self._trusted = self._compare(x) if self.reason is None else self._as_before(x, self.reason)
        self._trusted.refresh()
        if not self._trusted.copied:
            return Oracle(self.model, pieces=self.pieces)
        network = self._in_compiled_code(self._trusted.network, x) if self.compiled else self._trusted.network
        return Oracle(self.model, replace(self._trusted, network=network), pieces=self.pieces)

    def _in_compiled_code(self, network: nn.Module, x: Tensor) -> nn.Module:
        """The copy behind the compiler, for as many images as an attack shows it at once."""
        piece = x[: self.pieces.size]
        if self._compiled is None:
            self._compiled = self._compile(network, piece)
        self._compiled.shape = piece.shape
        return self._compiled

    def _compile(self, network: nn.Module, x: Tensor) -> Compiled:
        """Compile, and compare with the copy as it is; the seconds that both take are told."""
        start = time.perf_counter()
        compiled = Compiled(network, "the attacks of this training", x.shape)
        tolerance = TOLERANCES["bf16" if torch.is_autocast_enabled(x.device.type) else "float32"]
        if (reason := difference_on_batch(network, compiled, x, tolerance)) and not compiled.reason:
            compiled.give_up(reason)
        seconds = time.perf_counter() - start
        if not compiled.reason and self.world.leads:
            say(f"the attacks of this training are compiled, which took {seconds:.0f} s")
        self.tell({"kind": "compiled", "attacks": not compiled.reason, "reason": compiled.reason, "seconds": seconds})
        return compiled

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
        self.reason, self._trusted, self._compiled = state, None, None
