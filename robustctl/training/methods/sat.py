"""SAT (Madaan et al. 2021, arXiv:2006.12135; E-AT, section 2.1): each batch meets one norm, drawn uniformly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.recipe.method import SeveralNormsConfig
from robustctl.training.methods import SeveralNorms

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    name: Literal["sat"]


class Method(SeveralNorms):
    def loss(self, step: Step) -> Tensor:
        threat = self.threats[step.choose([1 / len(self.threats)] * len(self.threats))]
        return step.mean(step.losses(step.attack(threat), threat.norm))
