"""Intermediate-q training by Monte Carlo: (mean of loss^q over random draws)^(1/q) (Rice, thesis 2023, 3.1.5)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from robustctl.training.sampled import SampledConfig, SampledMethod, random_losses

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(SampledConfig):
    """``q``: 1 is the mean (data augmentation), larger is stricter."""

    name: Literal["z-mc"]
    q: Annotated[float, Field(ge=1, lt=math.inf)]


class Method(SampledMethod[Config]):
    def loss(self, step: Step) -> Tensor:
        values = random_losses(step, self.perturbation, self.config.samples)
        log_z = ((self.config.q * values).logsumexp(1) - math.log(self.config.samples)) / self.config.q
        return step.mean(log_z.exp())
