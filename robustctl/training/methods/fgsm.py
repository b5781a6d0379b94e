"""Fast adversarial training with one sign step (Wong, Rice and Kolter, arXiv:2001.03994; thesis 2.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robustctl.recipe.fields import PositiveFinite
from robustctl.recipe.method import AttackName, MethodConfig, OuterName, needs_linf
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.oracle import Oracle
    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(MethodConfig):
    """The ``method`` block.

    Attributes:
        start: ``zero``; ``uniform`` in the ball; ``previous``, the end of the batch before; ``corner``, a random corner
            of the cube of half the radius (R+FGSM, Tramer et al., arXiv:1705.07204).
        step: length of the step in radii: 1.25 with a uniform start, 0.5 from a corner, 1 from zero.
    """

    takes: ClassVar[tuple[AttackName, ...]] = ()

    name: Literal["fgsm"]
    start: Literal["zero", "uniform", "previous", "corner"]
    step: PositiveFinite

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return needs_linf(self.name, norms)

    def outers(self) -> tuple[OuterName, ...]:
        return ("cross-entropy", "trades-xent") if self.start == "zero" else super().outers()


class Method(TrainingMethod):
    """``delta`` is the end of the last batch, for ``start: previous``."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        (self.threat,) = threats
        self.delta: Tensor | None = None

    def loss(self, step: Step) -> Tensor:
        def one_step(oracle: Oracle, target: Tensor) -> Tensor:
            from robustctl import losses

            start = (step.x + self._start(step)).clamp(0, 1)
            _, _, grad = oracle.loss_and_grad(start, target, losses.ce)
            eps = self.threat.eps
            # The step begins at the point at which the gradient was taken: at the box, not beyond it.
            self.delta = (start - step.x + self.config.step * eps * grad.sign()).clamp(-eps, eps)
            return (step.x + self.delta).clamp(0, 1)

        return step.mean(step.losses(step.run(one_step), "linf"))

    def _start(self, step: Step) -> Tensor:
        from robustctl import geometry

        if self.config.start == "zero":
            return step.x.new_zeros(step.x.shape)
        if self.config.start == "previous" and self.delta is not None and self.delta.shape == step.x.shape:
            return self.delta.to(step.x)
        noise = geometry.draw(step.x, step.generators, uniform=True)
        return noise.sign() * (self.threat.eps / 2) if self.config.start == "corner" else noise * self.threat.eps

    def state(self) -> dict[str, Any]:
        return {"delta": self.delta if self.config.start == "previous" else None}

    def gathered_state(self, world: World) -> dict[str, Any]:
        delta = self.state()["delta"]
        return {"delta": None if delta is None else world.gather(delta)}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.delta = None if state["delta"] is None else state["delta"][world.part(len(state["delta"]))]
