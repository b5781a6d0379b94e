"""SAT (Madaan et al. 2021, arXiv:2006.12135; E-AT, section 2.1): each batch meets one norm, drawn uniformly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.recipe.method import MethodConfig, needs_several
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(MethodConfig):
    name: Literal["sat"]

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return needs_several(self.name, norms)


class Method(TrainingMethod):
    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.threats = threats

    def loss(self, step: Step) -> Tensor:
        threat = self.threats[step.choose([1 / len(self.threats)] * len(self.threats))]
        return step.mean(step.losses(step.attack(threat), threat.norm))
