"""AVG (Tramer and Boneh, arXiv:1904.13000; MSD, equation 13): the mean of the losses at every norm's points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.recipe.method import SeveralNormsConfig
from robustctl.training.methods import SeveralNorms

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    name: Literal["avg"]


class Method(SeveralNorms):
    def loss(self, step: Step) -> Tensor:
        losses = [step.mean(step.losses(step.attack(threat), threat.norm)) for threat in self.threats]
        total: Tensor = sum(losses[1:], start=losses[0])
        return total / len(losses)
