"""Probabilistically robust learning (Robey et al. 2022, arXiv:2202.01136): the mean of the worst share rho of losses.

CVaR_rho = min over u of u + mean (loss - u)+ / rho. Over m samples the minimum is at their (1 - rho) quantile, so it is
taken there instead of by the paper's inner descent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from robustctl.training.sampled import SampledConfig, SampledMethod, random_losses

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step


class Config(SampledConfig):
    """``rho``: 1 is the mean over perturbations, towards 0 the worst of the samples."""

    name: Literal["prl"]
    rho: Annotated[float, Field(gt=0, le=1)]


class Method(SampledMethod[Config]):
    def loss(self, step: Step) -> Tensor:
        values = random_losses(step, self.perturbation, self.config.samples).exp()
        return step.mean(cvar(values, self.config.rho))


def cvar(values: Tensor, rho: float) -> Tensor:
    """Mean of the largest share ``rho`` in (0,1] of each row of values (n, m), shape (n,)."""
    m = values.shape[1]
    u = values.detach().sort(dim=1, descending=True).values[:, min(m - 1, int(rho * m)), None]
    return u[:, 0] + (values - u).clamp(min=0).sum(1) / (rho * m)
