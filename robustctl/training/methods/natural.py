"""Training on the images as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from robustctl.recipe.method import AttackName, MethodConfig, OuterName
from robustctl.threats import Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(MethodConfig):
    takes: ClassVar[tuple[AttackName, ...]] = ()

    name: Literal["natural"]

    def outers(self) -> tuple[OuterName, ...]:
        return ()


class Method(TrainingMethod):
    attacks = False

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        pass

    def loss(self, step: Step) -> Tensor:
        return step.mean(step.natural())
