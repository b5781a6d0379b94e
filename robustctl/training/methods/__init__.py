"""Training methods, one a file. A file is found by its name and holds

- ``Config``: a ``MethodConfig``, the ``method`` block of a recipe;
- ``Method``: a ``TrainingMethod`` that turns a batch into a loss.

Reading a recipe imports these files, so they import torch for types only, or inside functions. A method owns no
optimiser, reads no file and prints nothing; what it remembers between batches goes through ``state``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustctl.recipe.method import MethodConfig
from robustctl.threats import Norm, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step


Probe = Callable[[Threat, int], float]
"""Robust accuracy on the selection split, in a threat, after so many steps of training on it alone from the start."""


class TrainingMethod(ABC):
    """One method during one training.

    Attributes:
        replays: optimiser steps that each batch is used for, one after the other.
        attacks: whether the loss must be higher at the points it trains on than at the clean images.
        alone: whether it trains in one process only.
    """

    replays: int = 1
    attacks: bool = True
    alone: bool = False

    def prepare(self, probe: Probe, start_norm: Norm | None) -> dict[str, Any]:
        """Called once, before the first step; what it returns is printed and goes to the metrics.

        Args:
            start_norm: the norm that the start was trained for, if one is known.
        """
        return {}

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """The scalar loss of a batch; the loop calls backward and steps the optimiser."""

    def after_backward(self, step: Step) -> None:  # noqa: B027  (most methods have nothing to do here)
        """Called between backward and the optimiser's step."""

    def start_epoch(self) -> None:  # noqa: B027
        """Called before the first batch of each epoch."""

    def state(self) -> dict[str, Any]:
        """The next batch depends on this besides the weights: tensors, numbers, and lists and dicts of them."""
        return {}

    def remembered(self) -> dict[str, Any]:
        """All that the method remembers now, for ``recall`` within the same step; nothing is read from the device.

        Lists are copied and tensors are not: a method puts a new tensor in an old one's place and changes none.
        """
        return {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Remember what ``remembered`` gave, and nothing of what came after it."""
        vars(self).clear()
        vars(self).update({name: list(one) if isinstance(one, list) else one for name, one in remembered.items()})

    def gathered_state(self, world: World) -> dict[str, Any]:
        """The ``state`` of all processes together. A method overrides it if each process keeps something of its own
        images."""
        return self.state()

    def load_state(self, state: dict[str, Any], world: World) -> None:  # noqa: B027
        """Take back what ``gathered_state`` gave; each process keeps what is its own."""


class SeveralNorms(TrainingMethod):
    """A method that needs to know the threats only, in the order of the recipe."""

    def __init__(self, config: MethodConfig, threats: tuple[Threat, ...]) -> None:
        self.threats = threats
