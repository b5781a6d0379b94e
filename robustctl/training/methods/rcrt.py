"""RCRT (Dai et al., ICML 2025, arXiv:2502.04248): threats come one after the other, and logits are kept close.

Training begins with the first threat; after every ``every`` epochs the next one becomes known. A regulariser keeps the
logits within a threat's ball close to the clean image's logits, because the gap between the robustness against two
threats is bounded by how far each moves the logits (their Theorem 1). Followed: train/reg_utils.py of the authors'
repository at commit 5a69324, whose regulariser has an attack of its own.

A threat of the sequence is a norm of ``train.threats``, or a kind whose parameters lie in a box (``stadv:0.8``), as in
the paper's sequences with StAdv and ReColor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from robustctl import discovery
from robustctl.errors import RequestError
from robustctl.recipe.fields import NonNegativeFinite
from robustctl.recipe.method import MethodConfig
from robustctl.threats import NORMS, Norm, Threat
from robustctl.training.methods import TrainingMethod
from robustctl.training.methods.max import worst

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from robustctl.oracle import Oracle
    from robustctl.perturbations.boxed import BoxedLimit
    from robustctl.processes import World
    from robustctl.training.step import Step


KINDS = "robustctl.perturbations.kinds"


class Config(MethodConfig):
    """The ``method`` block.

    Attributes:
        order: the threats as they come, each once, and at least two: all norms of ``train.threats``, and kinds with
            their budgets.
        every: epochs from one threat to the next.
        weight: lambda of the regulariser; 0 is continual training without it (CRT).
        steps: of the regulariser's attack; ``noise`` takes a random point of the ball instead.
        known: how a batch meets the known threats: ``max`` takes each image's worst, ``random`` one of them with equal
            chances, ``newest`` the last one alone.
    """

    name: Literal["rcrt"]
    order: tuple[str, ...]
    every: PositiveInt
    weight: NonNegativeFinite = 0.5
    steps: PositiveInt | Literal["noise"] = 10
    known: Literal["max", "random", "newest"] = "random"

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """The order must name each norm once, and nothing that does not exist."""
        found = []
        if len(set(self.order)) != len(self.order) or set(self.order) & set(NORMS) != norms:
            found.append(f"method.order: must name each of train.threats once ({', '.join(sorted(norms))})")
        if len(self.order) < 2:
            found.append("method.order: method rcrt trains on several threats, not on one")
        kinds = discovery.names(KINDS)
        for name in {written.partition(":")[0] for written in self.order}.difference(NORMS, kinds):
            found.append(f"method.order: {discovery.unknown('threat', name, [*NORMS, *kinds])}")
        return found


class Method(TrainingMethod):
    """Counts its epochs."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        by_norm = {threat.norm: threat for threat in threats}
        self.threats = tuple(by_norm[written] if written in NORMS else _kind(written) for written in config.order)
        self.epoch = -1

    def start_epoch(self) -> None:
        self.epoch += 1

    @property
    def known(self) -> tuple[Threat | BoxedLimit, ...]:
        """The threats that have come so far."""
        return self.threats[: 1 + max(self.epoch, 0) // self.config.every]

    def loss(self, step: Step) -> Tensor:
        chosen = self._chosen(step)
        points = [_points(step, threat) for threat in chosen]
        x_adv = points[0]
        if len(points) > 1:
            values = [step.judge(point, _name(threat)) for point, threat in zip(points, chosen, strict=True)]
            taken = worst(values)
            for i, point in enumerate(points):
                x_adv = x_adv.where((taken != i).view(-1, 1, 1, 1), point)
        loss = step.mean(step.losses(x_adv, _name(chosen[0]) if len(chosen) == 1 else "max"))
        return loss + self.config.weight * self._regulariser(step, chosen[-1]) if self.config.weight else loss

    def _chosen(self, step: Step) -> tuple[Threat | BoxedLimit, ...]:
        known = self.known
        if self.config.known == "max":
            return known
        if self.config.known == "newest":
            return known[-1:]
        return (known[step.choose([1 / len(known)] * len(known))],)

    def _regulariser(self, step: Step, threat: Threat | BoxedLimit) -> Tensor:
        """Mean length of the logits' movement, at the point of the threat that an attack finds to move them most."""
        moved = step.logits(step.look(farthest(step, threat, self.config.steps)))
        length = distance(moved, step.clean_logits).clamp_min(1e-12).sqrt()
        step.record("logit_distance", step.mean(length))
        return step.mean(length)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.epoch = state["epoch"]


def _kind(written: str) -> BoxedLimit:
    """A kind with its budget.

    Raises:
        RequestError: no such kind or budget, or a kind that gradient steps in a box do not attack.
    """
    from robustctl.perturbations.boxed import BoxedLimit

    try:
        return BoxedLimit.parse(written)
    except RequestError as error:
        raise RequestError(f"method.order: {error}") from None


def _name(threat: Threat | BoxedLimit) -> str:
    return threat.norm if isinstance(threat, Threat) else threat.name


def _points(step: Step, threat: Threat | BoxedLimit) -> Tensor:
    """Adversarial points (n, c, h, w) by as many steps as the recipe's attack takes."""
    if isinstance(threat, Threat):
        return step.attack(threat)
    assert step.context.attack is not None, "the recipe was checked"
    steps = max(step.context.attack.steps.values())
    return step.run(lambda oracle, target: threat.pgd(oracle, step.x, target, step.generators, steps=steps))


def farthest(step: Step, threat: Threat | BoxedLimit, steps: int | Literal["noise"]) -> Callable[[Oracle], Tensor]:
    """Return an attack that moves the logits as far as it can, from a random point of the threat."""
    from robustctl import geometry
    from robustctl.attacks.pgd import pgd

    def climb(oracle: Oracle) -> Tensor:
        count = 0 if steps == "noise" else steps
        wanted = oracle.logits(step.x) if count else step.labels
        if not isinstance(threat, Threat):
            return threat.pgd(oracle, step.x, wanted, step.generators, steps=count, loss=distance)
        start = geometry.random_start(step.x, threat.norm, threat.eps, step.generators)
        size = 2.5 * threat.eps / max(count, 1)
        return pgd(oracle, step.x, wanted, threat, steps=count, step_size=size, start=start, loss=distance)

    return climb


def distance(logits: Tensor, clean: Tensor) -> Tensor:
    """Squared length (n,) of the movement between two logits (n, k)."""
    squared: Tensor = (logits - clean).square().sum(1)
    return squared
