"""A kind of threat, and a kind with its budget as users write it: ``elastic:0.5``.

An attack proposes parameters (a flow field, the layout of snow, an image), never a verdict. The referee renders the
image from them in float64 and checks the parameters against the budget, so that nothing has to be believed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from robustctl import discovery
from robustctl.errors import RequestError
from robustctl.oracle import Oracle
from robustctl.threats import parse_eps

TOLERANCE = 1e-6
"""Relative, on a budget that is measured; counts have none."""
Generators = list[torch.Generator]


@dataclass(frozen=True)
class Effort:
    """How long attacks look: gradient steps of a start, starts, and queries of attacks without gradient, all >= 1."""

    steps: int
    restarts: int
    queries: int

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.restarts} starts, {self.queries} queries"


EFFORTS = {"standard": Effort(100, 3, 1000), "fast": Effort(20, 1, 100)}


@dataclass(frozen=True)
class Task:
    """The task of an attack: images x (n, c, h, w) in [0,1] and labels y (n,) on the oracle's device, and its limits.

    ``generators`` are one per image, so that its random numbers do not depend on the batch.
    """

    oracle: Oracle
    x: Tensor
    y: Tensor
    budget: float
    effort: Effort
    generators: Generators

    def rows(self, index: Tensor) -> "Task":
        """The same task for the images at ``index`` (long)."""
        chosen = [self.generators[i] for i in index.tolist()]
        return Task(self.oracle, self.x[index], self.y[index], self.budget, self.effort, chosen)


@dataclass(frozen=True)
class Family:
    """One attack on a kind.

    Attributes:
        run: from a task to parameters (n, k), one row per image, inside the budget.
        cost: gradient evaluations of an image that nothing breaks; a forward pass counts as half of one.
        gradient: it needs the gradient of the logits.
        further: it also looks beyond the gradient's reach, such as for a place, so that its successes say nothing about
            the gradients.
    """

    run: Callable[[Task], Tensor]
    cost: Callable[[Effort], float]
    gradient: bool
    further: bool = False


class Kind(ABC):
    """One kind of threat. Its file holds an instance of it under the name ``KIND``.

    Attributes:
        unit: of the budget. highest: the largest budget that means anything. whole: only whole budgets do.
        usual: the budget of the papers, as written, which is CIFAR-10's. usual_digits: our own for digits, whose
            images have 8x8 pixels; None if the same makes sense.
        source: the paper or code that kind and budget come from.
    """

    unit: ClassVar[str]
    highest: ClassVar[float]
    whole: ClassVar[bool] = False
    usual: ClassVar[str]
    usual_digits: ClassVar[str | None] = None
    source: ClassVar[str]

    def require(self, shape: tuple[int, int, int], budget: float) -> None:  # noqa: B027
        """Raise RequestError if images (c, h, w) cannot have this threat with this budget; most can."""

    @abstractmethod
    def families(self) -> dict[str, Family]:
        """The attacks by name, in the order in which they run."""

    @abstractmethod
    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Images (n, c, h, w) in [0,1] from x and parameters z (n, k), in the type of x; differentiable in z."""

    @abstractmethod
    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Whether parameters z (n, k) keep to the budget, shape (n,). All tensors are float64 on the CPU.

        Args:
            model: the model itself, for a distance that is measured by it.
        """


@dataclass(frozen=True)
class Limit:
    """A kind with its budget. ``text`` is the budget as it was written."""

    name: str
    budget: float
    text: str

    @classmethod
    def parse(cls, written: str, dataset: str = "") -> Self:
        """Read ``elastic:0.5``, or ``elastic`` for the usual budget on a data set.

        Raises:
            RequestError: no such kind, or a budget outside its range.
        """
        name, colon, text = written.partition(":")
        name, text = name.strip(), text.strip()
        kind = find(name)
        if not colon:
            text = (kind.usual_digits if dataset == "digits" else None) or kind.usual
        try:
            limit = cls(name, parse_eps(text, zero=True), text)
        except RequestError as error:
            raise RequestError(f"threat {written!r}: {error}") from None
        if limit.budget > kind.highest:
            raise RequestError(f"threat {written!r}: the budget is in {kind.unit}, at most {kind.highest:g}")
        if kind.whole and limit.budget != int(limit.budget):
            raise RequestError(f"threat {written!r}: the budget is a number of {kind.unit}, so a whole one")
        return limit

    @property
    def kind(self) -> Kind:
        """The kind."""
        return find(self.name)

    def __str__(self) -> str:
        return f"{self.name}:{self.text}"


def names() -> list[str]:
    """Every kind that has a file, sorted."""
    return discovery.names("robustctl.perturbations.kinds")


def files(name: str) -> list[Path]:
    """The source files of a kind: its own, and those that kinds share."""
    own = _module(name).__file__
    assert own is not None, "a kind is found by its source file"
    return [Path(own), *sorted(Path(__file__).parent.glob("*.py"))]


def _module(name: str) -> ModuleType:
    return discovery.load("robustctl.perturbations.kinds", name, "threat")


def find(name: str) -> Kind:
    """The kind called ``name``; RequestError if there is none."""
    kind = _module(name).KIND
    assert isinstance(kind, Kind), f"{name}.py must hold a Kind"
    return kind


def at_most(size: Tensor, budget: float) -> Tensor:
    """Whether a measured size (n,) is within the budget, up to ``TOLERANCE``."""
    return size <= budget * (1 + TOLERANCE)


def uniform(generators: Generators, count: int, like: Tensor) -> Tensor:
    """Numbers in [0,1), (n, count), each row from its image's generator."""
    return torch.stack([torch.rand(count, generator=one) for one in generators]).to(like)


def pixels(x: Tensor) -> int:
    """Channels times height times width."""
    return math.prod(x.shape[1:])
