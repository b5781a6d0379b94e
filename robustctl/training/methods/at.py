"""Adversarial training against one norm (Madry et al., arXiv:1706.06083), with the recipe's inner attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.recipe.method import MethodConfig
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(MethodConfig):
    name: Literal["at"]

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return [] if len(norms) == 1 else [f"train.threats: method at trains on one norm, not on {len(norms)}"]


class Method(TrainingMethod):
    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        (self.threat,) = threats

    def loss(self, step: Step) -> Tensor:
        x_adv = step.attack(self.threat)
        return step.mean(step.losses(x_adv, self.threat.norm))
