"""The ``method`` block that every training method extends by its own keys. No torch here."""

from typing import ClassVar, Literal

from robustctl.recipe.fields import Block
from robustctl.threats import Norm

AttackName = Literal["apgd", "pgd"]
StartName = Literal["zero", "random"]
OuterName = Literal["cross-entropy", "trades", "trades-xent", "mart", "score", "hat"]


class MethodConfig(Block):
    """The ``method`` block of a recipe; ``name`` is the file's name with ``-`` for ``_``.

    ``takes`` are the names that the recipe's ``attack`` block may have; without any, the method brings its own attack
    or needs none, and the block must not be there. ``starts`` are the values that ``attack.start`` may have.
    """

    takes: ClassVar[tuple[AttackName, ...]] = ("apgd", "pgd")
    starts: ClassVar[tuple[StartName, ...]] = ("zero", "random")

    name: str

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """The faults of training this method on these norms: one message per fault, which names the user's keys."""
        return []

    def outers(self) -> tuple[OuterName, ...]:
        """The outer losses that this method can be trained with; the tuple is empty if it has a loss of its own."""
        return ("cross-entropy", "trades", "trades-xent", "mart", "score", "hat")


class SeveralNormsConfig(MethodConfig):
    """The ``method`` block of a method that trains on several norms, any of them."""

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """One norm is too few."""
        return [] if len(norms) > 1 else [f"train.threats: method {self.name} trains on several norms, not on one"]


def needs_linf(name: str, norms: frozenset[Norm]) -> list[str]:
    """The fault of an l_inf method that is given other norms."""
    return [] if norms == {"linf"} else [f"train.threats: method {name} trains on linf alone"]
