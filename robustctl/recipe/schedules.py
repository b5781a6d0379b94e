"""Learning-rate schedules: a config each, and its factor on the recipe's learning rate. No torch here.

Time is counted in epochs and is a real number: 1.5 is the middle of the second epoch.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from robustctl.recipe.fields import Block, PositiveFinite, Share


class Constant(Block):
    """The same rate throughout."""

    name: Literal["constant"]

    def factor(self, epoch: float, epochs: int) -> float:
        return 1.0


class Piecewise(Block):
    """Multiply by ``factor`` at the start of each of the epochs ``at`` (Rice et al. 2020: 100 and 150 of 200)."""

    name: Literal["piecewise"]
    at: tuple[PositiveFinite, ...]
    by: PositiveFinite = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        return float(self.by ** sum(epoch >= start for start in self.at))


class MultipleDecay(Block):
    """Lower the rate by the same amount after every ``every`` epochs (thesis 2.3.3: by a tenth of it every 50)."""

    name: Literal["multiple-decay"]
    every: PositiveFinite
    lower_by: Share = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        return max(0.0, 1.0 - self.lower_by * (epoch // self.every))


class Linear(Block):
    """Hold until epoch ``hold``, go down to ``final`` of the rate at epoch ``until``, stay there (thesis 2.3.3)."""

    name: Literal["linear"]
    hold: Annotated[float, Field(ge=0)] = 0.0
    until: PositiveFinite
    final: Share = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "Linear":
        if self.until <= self.hold:
            raise ValueError(f"until ({self.until}) must come after hold ({self.hold})")
        return self

    def factor(self, epoch: float, epochs: int) -> float:
        way = (epoch - self.hold) / (self.until - self.hold)
        return 1.0 - (1.0 - self.final) * min(max(way, 0.0), 1.0)


class Cyclic(Block):
    """From 0 up to the rate over the first ``peak`` of the training, and down to 0 again (thesis 2.2: a half).

    ``lower`` gives the epochs at which both are scaled down by ``by`` (thesis 2.2.5: ImageNet's phases).
    """

    name: Literal["cyclic"]
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.5
    lower: tuple[PositiveFinite, ...] = ()
    by: PositiveFinite = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        top = self.peak * epochs
        cycle = epoch / top if epoch < top else (epochs - epoch) / (epochs - top)
        return max(0.0, cycle) * float(self.by ** sum(epoch >= start for start in self.lower))


class Lines(Block):
    """Straight lines through points (epoch, factor); before the first and after the last the factor stays the same.

    Maini et al. 2020: 0, 1 at 20 epochs, 0.05 at 40, 0 at 50. The ImageNet phases of Wong et al. 2020 are such lines.
    """

    name: Literal["lines"]
    through: Annotated[
        tuple[tuple[Annotated[FiniteFloat, Field(ge=0)], Annotated[FiniteFloat, Field(ge=0)]], ...],
        Field(min_length=2),
    ]

    @model_validator(mode="after")
    def _ordered(self) -> "Lines":
        if any(later[0] <= sooner[0] for sooner, later in pairwise(self.through)):
            raise ValueError("through: the epochs of its points must rise")
        return self

    def factor(self, epoch: float, epochs: int) -> float:
        for (start, low), (end, high) in pairwise(self.through):
            if epoch < end:
                return low + (high - low) * max(epoch - start, 0.0) / (end - start)
        return self.through[-1][1]


class Cosine(Block):
    """Half a cosine from the rate down to 0."""

    name: Literal["cosine"]

    def factor(self, epoch: float, epochs: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(epoch / epochs, 1.0)))


class OneCycle(Block):
    """Cosine up from a 25th of the rate over the share ``rise``, then down to a 250,000th (Smith and Topin 2018).

    The defaults make the schedule that thesis 3.3 trains with; Wang et al. 2023 rise for 0.025.
    """

    name: Literal["one-cycle"]
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3

    def factor(self, epoch: float, epochs: int) -> float:
        low, lowest, rise = 1 / 25, 1 / 250_000, self.rise * epochs
        if epoch < rise:
            return _cosine(low, 1.0, epoch / rise)
        return _cosine(1.0, lowest, min((epoch - rise) / (epochs - rise), 1.0))


class StepPerThird(Block):
    """Divide by 10 after each third of the training: fine-tuning of E-AT and RAMP (3 epochs, or thirds of one)."""

    name: Literal["step-per-third"]

    def factor(self, epoch: float, epochs: int) -> float:
        # The small amount keeps a third that is not a float (1/3 of one epoch) on its own side.
        return float(0.1 ** min(math.floor(3 * epoch / epochs + 1e-9), 2))


def _cosine(start: float, end: float, way: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * way))


Schedule = Annotated[
    Constant | Piecewise | MultipleDecay | Linear | Cyclic | Lines | Cosine | OneCycle | StepPerThird,
    Field(discriminator="name"),
]
