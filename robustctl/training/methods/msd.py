"""MSD (Maini, Wong and Kolter, arXiv:1909.04068, Algorithm 1): one trajectory that takes every norm's steepest step.

From the clean image on, each step tries the projected step of every norm and keeps, for each image, the one of the
highest loss. The steps are those of the recipe's ``pgd`` block; the last point is trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from robustctl.threats import Norm, Threat
from robustctl.training.methods import AttackName, MethodConfig, TrainingMethod, needs_several
from robustctl.training.methods.max import worst

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.oracle import Oracle
    from robustctl.training.step import Step


class Config(MethodConfig):
    takes: ClassVar[tuple[AttackName, ...]] = ("pgd",)

    name: Literal["msd"]

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return needs_several(self.name, norms)


class Method(TrainingMethod):
    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.threats = threats

    def loss(self, step: Step) -> Tensor:
        attack = step.engine.pgd
        steps = max(attack.steps[threat.norm] for threat in self.threats)
        sizes = [attack.step[threat.norm] * threat.eps for threat in self.threats]

        def climb(oracle: Oracle, target: Tensor) -> Tensor:
            return multi_steepest_descent(oracle, step.x, target, self.threats, sizes, steps)

        return step.mean(step.losses(step.run(climb), "msd"))


def multi_steepest_descent(
    oracle: Oracle, x: Tensor, y: Tensor, threats: tuple[Threat, ...], sizes: list[float], steps: int
) -> Tensor:
    """The last point (n, c, h, w) of the trajectory; ``sizes`` are the step lengths in the threats' own norms."""
    from robustctl import losses
    from robustctl.attacks.pgd import take_step

    x_adv = x
    for _ in range(steps):
        _, _, grad = oracle.loss_and_grad(x_adv, y, losses.ce)
        tried = [
            take_step(x_adv, x, grad, threat.norm, threat.eps, size)
            for threat, size in zip(threats, sizes, strict=True)
        ]
        x_adv = worst(tried, [losses.ce(oracle.logits(point), y) for point in tried])
    return x_adv
