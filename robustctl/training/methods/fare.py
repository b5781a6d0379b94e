"""FARE (Schlarmann et al., ICML 2024, arXiv:2402.12336, equation 3) in several norms: a CLIP's embeddings stay.

The image tower is trained so that the embedding of a perturbed image stays where the start's embedding of the clean
image was. No label is used, so that every zero-shot head stays valid. Each batch meets one of the recipe's norms, as in
E-AT with equal chances; the paper trains against l_inf alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robustctl.errors import RequestError
from robustctl.recipe.method import AttackName, MethodConfig, OuterName
from robustctl.threats import Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(MethodConfig):
    """The method has its own loss, and needs a CLIP."""

    takes: ClassVar[tuple[AttackName, ...]] = ("pgd",)

    name: Literal["fare"]

    def outers(self) -> tuple[OuterName, ...]:
        """The method has a loss of its own."""
        return ()


class Method(TrainingMethod):
    """Keeps the start's image tower."""

    attacks = False  # the points maximise a distance of embeddings, not the loss of a classifier

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.threats = threats
        self.start: nn.Module | None = None
        self.weights: dict[str, Tensor] | None = None

    def loss(self, step: Step) -> Tensor:
        import torch

        net = clip_of(step)
        start = self._start(net)
        with torch.no_grad():
            wanted = step.in_parts(start.embed, step.x)
        threat = self.threats[step.choose([1 / len(self.threats)] * len(self.threats))]
        x_adv = step.look(lambda _: farthest(step, net, wanted, threat))
        moved = distance(step.in_parts(net.embed, x_adv), wanted)
        step.record(f"embedding_distance/{threat.norm}", step.mean(moved))
        return step.mean(moved)

    def _start(self, net: Any) -> Any:
        """The start's tower; the first step of a training finds it in the model itself."""
        import copy

        if self.start is None:
            self.start = copy.deepcopy(net).eval().requires_grad_(False)
            if self.weights is not None:
                self.start.load_state_dict(self.weights)
        return self.start

    def state(self) -> dict[str, Any]:
        return {"start": self.weights if self.start is None else self.start.state_dict()}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.start, self.weights = None, state["start"]


def clip_of(step: Step) -> Any:
    """The CLIP that is trained.

    Raises:
        RequestError: another network.
    """
    net = getattr(step.model, "net", step.model)
    if not hasattr(net, "embed"):
        raise RequestError(f"method fare trains the image tower of a CLIP, not {type(net).__name__}")
    return net


def farthest(step: Step, net: Any, wanted: Tensor, threat: Threat) -> Tensor:
    """The points (n, c, h, w) of PGD that move the embedding farthest from ``wanted`` (n, d)."""
    from torch import nn

    from robustctl import geometry
    from robustctl.attacks.pgd import pgd
    from robustctl.oracle import Oracle

    class Tower(nn.Module):
        """The image tower as a network whose outputs are embeddings."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            embeddings: Tensor = self.net.embed(x)
            return embeddings

    attack = step.context.pgd
    start = geometry.random_start(step.x, threat.norm, threat.eps, step.generators)
    with step.context.autocast(), Oracle(Tower(), pieces=step.context.room.attacks) as oracle:
        return pgd(
            oracle,
            step.x,
            wanted,
            threat,
            steps=attack.steps[threat.norm],
            step_size=attack.step[threat.norm] * threat.eps,
            start=start if attack.start == "random" else None,
            loss=distance,
        )


def distance(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance (n,) of embeddings (n, d)."""
    squared: Tensor = (embeddings - wanted).square().sum(1)
    return squared
