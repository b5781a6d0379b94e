"""A model apart from its weights: architecture, normalisation, shapes, classes. Written to ``config.json`` and into
registry entries. No torch here."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from robustctl.conventions import KNOWN
from robustctl.errors import RequestError
from robustctl.reading import read_json
from robustctl.threats import Norm, Threat
from robustctl.user_code import Scalar as Scalar

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
IMAGENET = "imagenet"
"""The data set whose images have all sizes."""


class CodeRecord(BaseModel):
    """The user's code that builds a model: which file it was in (its name, no path) and under which name there.

    This is a record: nothing is ever run because it stands in a file (``robustctl.user_code`` is what the user grants).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    name: str
    sha256: str


class Architecture(BaseModel):
    """A builder in ``robustctl/architectures`` and its arguments; with ``code``, a builder of the user's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    args: dict[str, Scalar] = {}
    code: CodeRecord | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class Normalization(BaseModel):
    """Per-channel constants of the layer that stands before the network: (pixels - mean) / std."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class Resize(BaseModel):
    """How an image of another size becomes the model's input: resized, then the centre is cut out.

    Attributes:
        side: pixels of the shorter side after resizing; None cuts without resizing (with black borders if the image is
            smaller).
        interpolation: as Pillow's ``Image.resize`` does it, which averages over more pixels when it shrinks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: PositiveInt | None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @classmethod
    def usual(cls, side: int) -> "Resize":
        """The usual way on ImageNet: the shorter side to 256 pixels (bilinear) if the model takes 224."""
        return cls(side=round(side * 256 / 224))

    def of(self, old: int, new: int) -> "Resize":
        """The same for inputs of ``new`` pixels a side in place of ``old``."""
        return self.model_copy(update={"side": self.side and round(self.side * new / old)})

    def text(self, side: int) -> str:
        """In words, for a model that takes ``side`` pixels."""
        resized = f"shorter side to {self.side} ({self.interpolation}), " if self.side else ""
        return f"{resized}centre {side}x{side}"


class ModelSpec(BaseModel):
    """Everything that is needed to rebuild a classifier around its weights.

    ``input_shape`` is (channels, height, width); ``norm`` and ``eps`` say what it was trained for, if known. ``resize``
    is what its authors did to images of other sizes; without it, only models of data set imagenet take such images.
    ``classes`` are the names of the classes in the order of the logits, if they are known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["robustctl.model/1"] = Field("robustctl.model/1", alias="schema")
    architecture: Architecture
    normalization: Normalization | None = None
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    n_classes: Annotated[int, Field(ge=2)]
    classes: tuple[str, ...] | None = None
    dataset: str
    norm: Norm | None = None
    eps: str | None = None
    resize: Resize | None = None

    @property
    def resizing(self) -> Resize | None:
        """The resizing of images of other sizes; None if they are refused."""
        if self.resize is None and self.dataset == IMAGENET:
            return Resize.usual(self.input_shape[-1])
        return self.resize

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes: its own, else its data set's; None if neither is known."""
        known = KNOWN.get(self.dataset)
        usual = known.classes if known and known.n_classes == self.n_classes else None
        return self.classes or usual

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        if (self.norm is None) != (self.eps is None):
            raise ValueError("norm and eps go together")
        if self.norm and self.eps:
            Threat.of(self.norm, self.eps)
        if self.classes and len(self.classes) != self.n_classes:
            raise ValueError(f"classes names {len(self.classes)}, n_classes is {self.n_classes}")
        if self.classes and len(set(self.classes)) != self.n_classes:
            raise ValueError("classes names one of them twice")
        channels = self.input_shape[0]
        if self.normalization and {len(self.normalization.mean), len(self.normalization.std)} != {channels}:
            raise ValueError(f"normalization needs {channels} values of mean and of std, one a channel")
        if self.resize and self.input_shape[1] != self.input_shape[2]:
            raise ValueError("resize is for models that take square images")
        return self


def read_spec(directory: Path) -> ModelSpec:
    """Read and check ``config.json`` of a model directory, or raise RequestError."""
    path = directory / CONFIG
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} does not describe a model of robustctl: it holds no mapping of keys to values")
        return ModelSpec.model_validate(content)
    except FileNotFoundError:
        raise RequestError(f"{directory} is no model directory: it has no {CONFIG}") from None
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, one['loc'])) or 'all of it'}: {one['msg'].removeprefix('Value error, ').lower()}"
            for one in error.errors()
        ]
        raise RequestError(f"{path} does not describe a model of robustctl: {'; '.join(faults[:3])}") from None
    except (RequestError, ValueError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def model_sha256(spec: ModelSpec) -> str:
    """Hash of all of a model that is not in its weights and changes its logits: architecture and normalisation."""
    return hashlib.sha256(spec.model_dump_json(include={"architecture", "normalization"}).encode()).hexdigest()
