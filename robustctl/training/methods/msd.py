"""MSD (Maini, Wong and Kolter, arXiv:1909.04068, Algorithm 1): one trajectory that takes every norm's steepest step.

From the clean image on, each step tries the projected step of every norm and keeps, for each image, the one of the
highest loss. The recipe's ``pgd`` block says the steps; the last point is trained on. The metrics have, for each norm,
the error at its last projected point and the share of images that took this point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from robustctl.recipe.method import AttackName, OuterName, SeveralNormsConfig, StartName
from robustctl.training.methods import SeveralNorms

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.oracle import Oracle
    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    takes: ClassVar[tuple[AttackName, ...]] = ("pgd",)
    starts: ClassVar[tuple[StartName, ...]] = ("zero",)

    name: Literal["msd"]

    def outers(self) -> tuple[OuterName, ...]:
        return ("cross-entropy", "trades-xent", "mart", "score")


class Method(SeveralNorms):
    def loss(self, step: Step) -> Tensor:
        attack = step.context.pgd
        steps = max(attack.steps[threat.norm] for threat in self.threats)
        sizes = [attack.step[threat.norm] * threat.eps for threat in self.threats]

        def climb(oracle: Oracle, target: Tensor) -> Tensor:
            from robustctl.attacks.msd import msd

            return msd(oracle, step.x, target, self.threats, step_sizes=sizes, steps=steps, report=report)

        def report(logits: Tensor, chosen: Tensor) -> None:
            for i, threat in enumerate(self.threats):
                step.record_error(threat.norm, logits[i])
                step.record_share(threat.norm, chosen == i)

        return step.mean(step.losses(step.run(climb), "msd"))
