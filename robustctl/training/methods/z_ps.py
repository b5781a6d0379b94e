"""Intermediate-q training by path sampling with HMC (Rice, thesis 2023, 3.1.5 and 3.3.2).

The loss is the geometric mean of the losses at m annealed samples; its gradient takes the samples as given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from robustctl.threats import Threat
from robustctl.training.sampled import SampledConfig, SampledMethod, log_losses

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step

MOST_ADJUSTMENTS = 10  # of the step size at an epoch's start


class Config(SampledConfig):
    """``q``: 1 is the mean, larger is stricter. ``leapfrog``: gradients per sample."""

    name: Literal["z-ps"]
    q: Annotated[float, Field(ge=1, lt=math.inf)]
    leapfrog: Annotated[int, Field(ge=1)]


class Method(SampledMethod[Config]):
    """Remembers the step size of HMC, as a share of the widest, and whether this epoch has tuned it."""

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        super().__init__(config, threats)
        self.step_share = 1.0
        self.tuned = False

    def start_epoch(self) -> None:
        self.tuned = False

    def loss(self, step: Step) -> Tensor:
        points, acceptance = self._sample(step)
        adjustments = 0
        while not self.tuned and adjustments < MOST_ADJUSTMENTS and self._adjust(float(acceptance)):
            points, acceptance = self._sample(step)
            adjustments += 1
        self.tuned = True
        step.record("acceptance", acceptance)
        step.record("hmc_step", self.step_share)
        return step.mean(log_losses(step, points, self.config.samples).mean(1).exp())

    def _adjust(self, acceptance: float) -> bool:
        """Lengthen or shorten the step by a fifth if the acceptance asks for it; returns whether it did."""
        from robustctl.sampling.annealing import ACCEPTANCE, ADJUSTMENT

        low, high = ACCEPTANCE
        if low <= acceptance <= high or (acceptance > high and self.step_share == 1):
            return False
        self.step_share = min(1.0, self.step_share * (ADJUSTMENT if acceptance > high else 1 / ADJUSTMENT))
        return True

    def _sample(self, step: Step) -> tuple[Tensor, Tensor]:
        """Annealed points (n * m, c, h, w), image by image, and the mean acceptance of all processes."""
        from robustctl.sampling import quadrature
        from robustctl.sampling.annealing import anneal
        from robustctl.sampling.build import make_sampler
        from robustctl.sampling.noise import Noise

        grid = quadrature.uniform(self.config.q, self.config.samples)
        with step.oracle() as oracle:
            sampler = make_sampler(self.perturbation, oracle, step.x, step.labels, self.config.leapfrog)
            points, acceptance = anneal(sampler, grid.t, self.step_share, Noise(step.generators, 1, step.x))
        return points.transpose(0, 1).flatten(0, 1), step.context.world.mean(acceptance)

    def state(self) -> dict[str, Any]:
        return {"step_share": self.step_share, "tuned": self.tuned}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.step_share, self.tuned = state["step_share"], state["tuned"]
