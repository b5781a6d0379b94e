"""Mixed batches: each image of a batch meets one norm. It is robustctl's own variant of E-AT, with E-AT's cost.

E-AT draws one norm for a whole batch, so that half of its steps see no l_1 point, or no l_inf point. Here every step
sees all norms of the recipe, and each image is attacked once, as in E-AT. docs/methods.md compares both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from robustctl.recipe.method import SeveralNormsConfig
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(SeveralNormsConfig):
    """The ``method`` block.

    Attributes:
        choice: how an image's norm is chosen. ``error`` draws it by the norms' running robust errors (E-AT, equation
            5), ``uniform`` with equal chances. ``margin`` takes the norm in which the linearised network has the
            smallest margin in relation to the radius, at the cost of one more gradient per image.
        momentum: of the running errors, in [0, 1); they survive the end of an epoch.
    """

    name: Literal["mixed"]
    choice: Literal["error", "uniform", "margin"] = "error"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class Method(TrainingMethod):
    """Keeps a running robust error of each norm."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config, self.threats = config, threats
        self.errors = [0.5] * len(threats)

    def loss(self, step: Step) -> Tensor:
        chosen = self._chosen(step)
        x_adv = step.x
        for i, threat in enumerate(self.threats):
            rows = chosen == i
            x_adv = x_adv.where((~rows).view(-1, 1, 1, 1), step.attack(threat, rows))
            step.record_share(threat.norm, rows)
        logits = step.logits(x_adv)
        step.record_error("mixed", logits)
        self._count(step, logits, chosen)
        return step.mean(step.outer(logits, x_adv))

    def _chosen(self, step: Step) -> Tensor:
        """The index (n,) of each image's norm."""
        import torch

        if self.config.choice == "margin":
            return steepest(step, self.threats)
        rates = self.errors if self.config.choice == "error" and sum(self.errors) > 0 else [1.0] * len(self.threats)
        weights = torch.tensor(rates, dtype=torch.float64)
        one = torch.stack([torch.rand((), dtype=torch.float64, generator=draw) for draw in step.generators])
        chosen = torch.searchsorted(weights.cumsum(0) / weights.sum(), one, right=True)
        return chosen.clamp_max(len(rates) - 1).to(step.x.device)

    def _count(self, step: Step, logits: Tensor, chosen: Tensor) -> None:
        wrong = (logits.detach().argmax(1) != step.labels).double()
        for i, threat in enumerate(self.threats):
            error = step.mean(wrong, chosen == i)
            step.record(f"robust_error/{threat.norm}", error)
            self.errors[i] = self.config.momentum * self.errors[i] + (1 - self.config.momentum) * float(error)

    def state(self) -> dict[str, Any]:
        return {"errors": list(self.errors)}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.errors = list(state["errors"])


DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
"""The exponent of each norm's dual, which tells how far a step of length 1 can move a linear function."""


def steepest(step: Step, threats: tuple[Threat, ...]) -> Tensor:
    """The index (n,) of the threat that moves the linearised margin most: the largest eps |g|_dual."""
    import torch

    from robustctl import losses

    grad = step.look(lambda oracle: oracle.loss_and_grad(step.x, step.labels, losses.margin)[2]).flatten(1)
    reach = [threat.eps * torch.linalg.vector_norm(grad, DUAL[threat.norm], dim=1) for threat in threats]
    return torch.stack(reach).argmax(0)
