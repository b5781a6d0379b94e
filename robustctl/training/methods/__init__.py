"""Training methods, one a file. A file is found by its name and holds

- ``Config``: a ``MethodConfig``, the ``method`` block of a recipe;
- ``Method``: a ``TrainingMethod`` that turns a batch into a loss.

Reading a recipe imports these files, so they import torch for types only, or inside functions. A method owns no
optimiser, reads no file and prints nothing; what it remembers between batches goes through ``state``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robustctl.threats import Norm, Threat
from robustctl.training.blocks import Block

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.distributed import World
    from robustctl.training.step import Step


AttackName = Literal["apgd", "pgd"]
StartName = Literal["zero", "random"]
OuterName = Literal["cross-entropy", "trades", "trades-xent"]

Probe = Callable[[Threat, int], float]
"""Robust accuracy on the selection split, in a threat, after so many steps of training on it alone from the start."""


class MethodConfig(Block):
    """The ``method`` block of a recipe; ``name`` is the file's name with ``-`` for ``_``.

    ``takes`` are the names that the recipe's ``attack`` block may have; without any, the method brings its own attack
    or needs none, and the block must not be there. ``starts`` are the values that ``attack.start`` may have.
    """

    takes: ClassVar[tuple[AttackName, ...]] = ("apgd", "pgd")
    starts: ClassVar[tuple[StartName, ...]] = ("zero", "random")

    name: str

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """What is wrong with training this method on these norms, one message a fault that names the user's keys."""
        return []

    def outers(self) -> tuple[OuterName, ...]:
        """The outer losses that this method can be trained with; none where it has a loss of its own."""
        return ("cross-entropy", "trades", "trades-xent")


def needs_several(name: str, norms: frozenset[Norm]) -> list[str]:
    """The fault of a multi-norm method that is given one norm."""
    return [] if len(norms) > 1 else [f"train.threats: method {name} trains on several norms, not on one"]


def needs_linf(name: str, norms: frozenset[Norm]) -> list[str]:
    """The fault of an l_inf method that is given other norms."""
    return [] if norms == {"linf"} else [f"train.threats: method {name} trains on linf alone"]


class TrainingMethod(ABC):
    """One method during one training.

    Attributes:
        replays: optimiser steps that each batch is used for, one after the other.
        attacks: whether the loss must be higher at the points it trains on than at the clean images.
    """

    replays: int = 1
    attacks: bool = True

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
        """What the next batch depends on besides the weights: tensors, numbers, and lists and dicts of them."""
        return {}

    def gathered_state(self, world: World) -> dict[str, Any]:
        """``state`` of all processes together; differs where a process keeps something of its own images."""
        return self.state()

    def load_state(self, state: dict[str, Any], world: World) -> None:  # noqa: B027
        """Take back what ``gathered_state`` gave; each process keeps what is its own."""
