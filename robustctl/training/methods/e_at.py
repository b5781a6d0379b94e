"""E-AT (Croce and Hein 2022, arXiv:2105.12508): each batch meets one of the two extreme norms, l_inf or l_1.

A linear classifier that is robust in both balls is robust in their convex hull, which holds an l_2 ball (Theorem 3.1);
``threats.hull_l2_radius`` gives its radius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from robustctl.recipe.method import MethodConfig
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.devices import Arriving
    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(MethodConfig):
    """``sampling``: ``adaptive`` draws each norm by its running robust error (equation 5), ``uniform`` by a half."""

    name: Literal["e-at"]
    sampling: Literal["adaptive", "uniform"] = "adaptive"

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        if norms == {"linf", "l1"}:
            return []
        return [f"train.threats: method e-at trains on linf and l1, not on {', '.join(sorted(norms))}"]


class Method(TrainingMethod):
    """Keeps the errors of this epoch's batches, by norm.

    A batch's error enters the probabilities two batches later, so that the host can choose the next norm without
    waiting for the batch that the device is at.
    """

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        self.threats = threats
        self.start_epoch()

    def start_epoch(self) -> None:
        self.errors = [0.0] * len(self.threats)
        self.batches = [0] * len(self.threats)
        self.recent: list[tuple[int, Arriving]] = []

    def probabilities(self) -> list[float]:
        """Chance of each norm: its running error over the sum of both; halves until both norms have met a batch."""
        if self.config.sampling == "uniform" or 0 in self.batches or sum(self.errors) == 0:
            return [1 / len(self.threats)] * len(self.threats)
        rates = [error / n for error, n in zip(self.errors, self.batches, strict=True)]
        return [rate / sum(rates) for rate in rates]

    def loss(self, step: Step) -> Tensor:
        from robustctl.devices import Arriving

        self._count(keep=1)
        probabilities = self.probabilities()
        chosen = step.choose(probabilities)
        threat = self.threats[chosen]
        losses = step.losses(step.attack(threat), threat.norm)
        self.recent.append((chosen, Arriving(step.error)))
        for one, probability in zip(self.threats, probabilities, strict=True):
            step.record(f"probability/{one.norm}", probability)
        return step.mean(losses)

    def _count(self, keep: int) -> None:
        while len(self.recent) > keep:
            chosen, error = self.recent.pop(0)
            self.errors[chosen] += float(error)
            self.batches[chosen] += 1

    def state(self) -> dict[str, Any]:
        recent = [(chosen, float(error)) for chosen, error in self.recent]
        return {"errors": self.errors, "batches": self.batches, "recent": recent}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        import torch

        from robustctl.devices import Arriving

        self.errors, self.batches = state["errors"], state["batches"]
        self.recent = [(chosen, Arriving(torch.tensor(error))) for chosen, error in state["recent"]]
