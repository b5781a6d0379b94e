"""RCRT (Dai et al., ICML 2025, arXiv:2502.04248): threats come one after the other, and logits are kept close.

Training begins with the first threat; after every ``every`` epochs the next one becomes known. A regulariser keeps the
logits within a threat's ball close to the clean image's logits, because the gap between the robustness against two
threats is bounded by how far each moves the logits (their Theorem 1). Followed: train/reg_utils.py of the authors'
repository at commit 5a69324, whose regulariser has an attack of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from robustctl.recipe.fields import NonNegativeFinite
from robustctl.recipe.method import SeveralNormsConfig
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod
from robustctl.training.methods.max import worst

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from robustctl.oracle import Oracle
    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    """The ``method`` block.

    Attributes:
        order: the norms as they come; all of ``train.threats``, each once.
        every: epochs from one threat to the next.
        weight: lambda of the regulariser; 0 is continual training without it (CRT).
        steps: of the regulariser's attack; ``noise`` takes a random point of the ball instead.
        known: how a batch meets the known threats: ``max`` takes each image's worst, ``random`` one of them with equal
            chances, ``newest`` the last one alone.
    """

    name: Literal["rcrt"]
    order: tuple[Norm, ...]
    every: PositiveInt
    weight: NonNegativeFinite = 0.5
    steps: PositiveInt | Literal["noise"] = 10
    known: Literal["max", "random", "newest"] = "random"

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """The order must name each norm once."""
        found = super().faults(norms)
        if len(set(self.order)) != len(self.order) or set(self.order) != norms:
            found.append(f"method.order: must name each of train.threats once ({', '.join(sorted(norms))})")
        return found


class Method(TrainingMethod):
    """Counts its epochs."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        by_norm = {threat.norm: threat for threat in threats}
        self.threats = tuple(by_norm[norm] for norm in config.order)
        self.epoch = -1

    def start_epoch(self) -> None:
        self.epoch += 1

    @property
    def known(self) -> tuple[Threat, ...]:
        """The threats that have come so far."""
        return self.threats[: 1 + max(self.epoch, 0) // self.config.every]

    def loss(self, step: Step) -> Tensor:
        chosen = self._chosen(step)
        points = [step.attack(threat) for threat in chosen]
        x_adv = points[0]
        if len(points) > 1:
            values = [step.judge(point, threat.norm) for point, threat in zip(points, chosen, strict=True)]
            taken = worst(values)
            for i, point in enumerate(points):
                x_adv = x_adv.where((taken != i).view(-1, 1, 1, 1), point)
        loss = step.mean(step.losses(x_adv, chosen[0].norm if len(chosen) == 1 else "max"))
        return loss + self.config.weight * self._regulariser(step, chosen[-1]) if self.config.weight else loss

    def _chosen(self, step: Step) -> tuple[Threat, ...]:
        known = self.known
        if self.config.known == "max":
            return known
        if self.config.known == "newest":
            return known[-1:]
        return (known[step.choose([1 / len(known)] * len(known))],)

    def _regulariser(self, step: Step, threat: Threat) -> Tensor:
        """Mean length of the logits' movement, at the point of the ball that an attack finds to move them most."""
        moved = step.logits(step.look(farthest(step, threat, self.config.steps)))
        length = distance(moved, step.clean_logits).clamp_min(1e-12).sqrt()
        step.record("logit_distance", step.mean(length))
        return step.mean(length)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.epoch = state["epoch"]


def farthest(step: Step, threat: Threat, steps: int | Literal["noise"]) -> Callable[[Oracle], Tensor]:
    """Return an attack that moves the logits as far as it can, from a random point of the ball."""
    from robustctl import geometry
    from robustctl.attacks.pgd import pgd

    def climb(oracle: Oracle) -> Tensor:
        start = geometry.random_start(step.x, threat.norm, threat.eps, step.generators)
        if steps == "noise":
            return geometry.shrink_inside(start, step.x, threat.norm, threat.eps)
        size = 2.5 * threat.eps / steps
        return pgd(
            oracle, step.x, oracle.logits(step.x), threat, steps=steps, step_size=size, start=start, loss=distance
        )

    return climb


def distance(logits: Tensor, clean: Tensor) -> Tensor:
    """Squared length (n,) of the movement between two logits (n, k)."""
    squared: Tensor = (logits - clean).square().sum(1)
    return squared
