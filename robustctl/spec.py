"""What a model is, apart from its weights. Written to ``config.json`` and into registry entries. No torch here."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from robustctl.errors import RequestError
from robustctl.threats import Norm, Threat

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Scalar = bool | int | float | str


class Architecture(BaseModel):
    """A builder in ``robustctl/architectures`` and its arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    args: dict[str, Scalar] = {}


class Normalization(BaseModel):
    """Per-channel constants of the layer that stands before the network: (pixels - mean) / std."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class ModelSpec(BaseModel):
    """Everything that is needed to rebuild a classifier around its weights.

    ``input_shape`` is (channels, height, width); ``norm`` and ``eps`` say what it was trained for, if known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["robustctl.model/1"] = Field("robustctl.model/1", alias="schema")
    architecture: Architecture
    normalization: Normalization | None = None
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    n_classes: Annotated[int, Field(ge=2)]
    dataset: str
    norm: Norm | None = None
    eps: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        if (self.norm is None) != (self.eps is None):
            raise ValueError("norm and eps go together")
        if self.norm and self.eps:
            Threat.of(self.norm, self.eps)
        channels = self.input_shape[0]
        if self.normalization and {len(self.normalization.mean), len(self.normalization.std)} != {channels}:
            raise ValueError(f"normalization needs {channels} values of mean and of std, one a channel")
        return self


def read_spec(directory: Path) -> ModelSpec:
    """Read and check ``config.json`` of a model directory, or raise RequestError."""
    path = directory / CONFIG
    try:
        return ModelSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RequestError(f"{directory} is no model directory: it has no {CONFIG}") from None
    except (RequestError, ValidationError, ValueError, RecursionError, OSError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None
