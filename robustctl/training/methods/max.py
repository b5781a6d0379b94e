"""MAX (Tramer and Boneh, arXiv:1904.13000; MSD, equations 11 and 12): each image trains on its worst norm's point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from robustctl.threats import Norm, Threat
from robustctl.training.methods import MethodConfig, TrainingMethod, needs_several

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(MethodConfig):
    name: Literal["max"]

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return needs_several(self.name, norms)


class Method(TrainingMethod):
    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.threats = threats

    def loss(self, step: Step) -> Tensor:
        points = [step.attack(threat) for threat in self.threats]
        values = [step.judge(x_adv, threat.norm) for x_adv, threat in zip(points, self.threats, strict=True)]
        return step.mean(step.losses(worst(points, values), "max"))


def worst(points: list[Tensor], values: list[Tensor]) -> Tensor:
    """Of several batches (n, c, h, w), each image's point of the highest value (n,); the first where they tie."""
    x_adv, highest = points[0], values[0]
    for point, value in zip(points[1:], values[1:], strict=True):
        higher = value > highest
        x_adv = x_adv.where(~higher.view(-1, 1, 1, 1), point)
        highest = highest.where(~higher, value)
    return x_adv
