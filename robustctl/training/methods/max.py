"""MAX (Tramer and Boneh, arXiv:1904.13000; MSD, equations 11 and 12): each image trains on its worst norm's point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.recipe.method import SeveralNormsConfig
from robustctl.training.methods import SeveralNorms

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    name: Literal["max"]


class Method(SeveralNorms):
    def loss(self, step: Step) -> Tensor:
        points = [step.attack(threat) for threat in self.threats]
        values = [step.judge(x_adv, threat.norm) for x_adv, threat in zip(points, self.threats, strict=True)]
        chosen = worst(values)
        x_adv = points[0]
        for i, (point, threat) in enumerate(zip(points, self.threats, strict=True)):
            x_adv = x_adv.where((chosen != i).view(-1, 1, 1, 1), point)
            step.record_share(threat.norm, chosen == i)
        return step.mean(step.losses(x_adv, "max"))


def worst(values: list[Tensor]) -> Tensor:
    """The index (n,) of each image's highest value among several (n,); the first of equals."""
    highest, chosen = values[0], values[0].new_zeros(len(values[0])).long()
    for i, value in enumerate(values[1:], start=1):
        higher = value > highest
        highest, chosen = highest.where(~higher, value), chosen.masked_fill(higher, i)
    return chosen
