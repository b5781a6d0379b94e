"""Free adversarial training (Shafahi et al., arXiv:1904.12843): one backward pass moves weights and perturbation.

Each batch is used ``replays`` times; the perturbation is carried from step to step and from batch to batch. An epoch of
the recipe is one pass over the data, ``replays`` epochs in the paper's count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from robustctl.recipe.method import AttackName, MethodConfig, OuterName, needs_linf
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(MethodConfig):
    takes: ClassVar[tuple[AttackName, ...]] = ()

    name: Literal["free"]
    replays: PositiveInt

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        return needs_linf(self.name, norms)

    def outers(self) -> tuple[OuterName, ...]:
        # The perturbation climbs the outer loss itself, and both forms of TRADES are flat at the clean image.
        return ("cross-entropy",)


class Method(TrainingMethod):
    """``delta`` is the carried perturbation, one for each place in the batch; ``points`` are the images moved by it."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.replays = config.replays
        (self.threat,) = threats
        self.delta: Tensor | None = None
        self.points: Tensor | None = None

    def loss(self, step: Step) -> Tensor:
        if self.delta is None or self.delta.shape != step.x.shape:
            self.delta = step.x.new_zeros(step.x.shape)
        # The cut to the box stands outside the graph: inside, a pixel beyond 0 or 1 would get no gradient any more.
        self.points = (step.x + self.delta.to(step.x)).clamp(0, 1).requires_grad_(True)
        return step.mean(step.losses(self.points, "linf"))

    def after_backward(self, step: Step) -> None:
        assert self.points is not None and self.points.grad is not None, "loss has run"
        eps, reached = self.threat.eps, self.points.detach() - step.x
        self.delta = (reached + eps * self.points.grad.sign()).clamp(-eps, eps)
        step.record("perturbation", self.delta.abs().amax())

    def state(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def gathered_state(self, world: World) -> dict[str, Any]:
        delta = self.state()["delta"]
        return {"delta": None if delta is None else world.gather(delta)}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.delta = None if state["delta"] is None else state["delta"][world.part(len(state["delta"]))]
