"""The common part of the blocks of a recipe. No torch here."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from robustctl.errors import RequestError
from robustctl.threats import NORMS, Norm, Threat

Share = Annotated[float, Field(ge=0, le=1)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Block(BaseModel):
    """A block of a recipe: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _for_every_norm(value: Any) -> Any:
    return value if isinstance(value, dict) else dict.fromkeys(NORMS, value)


def _radii(value: Any) -> Any:
    """Check radii as they are written, so that a recipe's fault is found when it is read."""
    if not isinstance(value, dict) or not value:
        raise ValueError("give at least one norm with its radius, e.g. {linf: 8/255}")
    faults = []
    for norm, eps in value.items():
        try:
            Threat.of(str(norm), str(eps))
        except RequestError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return {norm: str(eps) for norm, eps in value.items()}


Steps = Annotated[dict[Norm, PositiveInt], BeforeValidator(_for_every_norm)]
"""Attack steps for each norm; one number stands for all norms."""

Radii = Annotated[dict[Norm, str], BeforeValidator(_radii)]
"""Radius of each norm, as it was written."""


def threats(radii: dict[Norm, str]) -> tuple[Threat, ...]:
    """The threats of a ``Radii`` block, in the order of ``NORMS``."""
    assert set(radii) <= set(get_args(Norm))
    return tuple(Threat.of(norm, radii[norm]) for norm in NORMS if norm in radii)
