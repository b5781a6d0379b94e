"""A study's YAML file as checked values, and its only reader. No torch here."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from robustctl import reading
from robustctl.errors import RequestError
from robustctl.recipe.fields import Block, Radii
from robustctl.yaml_faults import Document, Key, counted, messages

START = "start"
"""In the place of a recipe: the model as it is, untrained by the study."""
DEFAULT_PROTOCOL = "adaptive"


LINE = re.compile(r"line (\d+)")


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class StudyData(Block):
    """Images: the split that is trained on, the split that is evaluated and how many of its images."""

    source: str
    train_split: str = "train"
    split: str = "test"
    n: PositiveInt | None = None
    columns: str | None = None
    classes: Path | None = None


Texts = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Seed = Annotated[NonNegativeInt, Field(lt=2**63)]


class Study(Block):
    """A study: every combination of its lists is trained once and evaluated once per protocol and union of threats.

    Attributes:
        models: what ``finetune`` starts from. architectures: what ``train`` trains from scratch.
        recipes: names or files, as ``--recipe``; ``start`` is the model as it is.
        seeds: of the trainings. The attacks have seed 0.
        data: the place of the images; without, the usual images of each recipe's data set.
        n: how many images of the evaluated split, for data that do not say it; all without.
        threats: unions to evaluate; without, the one that each recipe evaluates.
        protocols: of the evaluations; an empty list trains alone.
        precision: of the attacks, as ``eval --precision``.
        set: keys of the recipes to change, as ``--set``.
    """

    models: Texts = ()
    architectures: Texts = ()
    recipes: Texts = (START,)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = (0,)
    data: Annotated[tuple[Annotated[StudyData, BeforeValidator(_source)], ...], BeforeValidator(_one_or_many)] = ()
    n: PositiveInt | None = None
    threats: Annotated[tuple[Radii, ...], BeforeValidator(_one_or_many)] = ()
    protocols: Texts = (DEFAULT_PROTOCOL,)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    set: dict[str, Any] = Field(default_factory=dict)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The texts of ``set`` as ``--set`` takes them. (JSON is YAML.)"""
        return tuple(f"{key}={json.dumps(value)}" for key, value in self.set.items())

    @model_validator(mode="after")
    def _something_to_do(self) -> "Study":
        faults = []
        if not self.models and not self.architectures:
            faults.append("models: name at least one model, or one of architectures to train from scratch")
        if not self.recipes:
            faults.append("recipes: name at least one, or leave the key out to evaluate the models as they are")
        for key in ("models", "architectures", "recipes", "seeds", "protocols"):
            values = getattr(self, key)
            if twice := sorted({str(one) for one in values if values.count(one) > 1}):
                faults.append(f"{key}: {', '.join(twice)} stands there twice")
        if faults:
            raise ValueError("\n".join(faults))
        return self


class StudyFile(Document):
    """A study as it was read, with the line of every key.

    Attributes:
        path: the file. study: its content.
    """

    def __init__(self, path: Path) -> None:
        """Read and check a file; raises RequestError with all its faults."""
        super().__init__()
        self.path = path
        try:
            text = reading.read_text(path, reading.MAX_YAML_BYTES)
        except FileNotFoundError:
            raise RequestError(f"no study file at {path}") from None
        node, values = reading.compose_yaml(text, f"study {path}")
        if not isinstance(values, dict) or node is None:
            raise RequestError(f"study {path} holds no mapping of keys to values")
        self.note_lines(node, ())
        self.values = values
        study = None
        try:
            study = Study.model_validate(values)
        except ValidationError as error:
            self.faults += messages(self, error, Study, ())
        self.refuse(self.faults)
        assert study is not None, "what has no fault was read"
        self.study = study

    def refuse(self, faults: list[str]) -> None:
        """Raise RequestError with these faults, unless there are none."""
        if faults := sorted(dict.fromkeys(faults), key=_line_of):
            listed = "\n  ".join(faults)
            raise RequestError(f"study {self.path} has {counted(len(faults))}:\n  {listed}")

    def fault(self, key: Key, text: object) -> str:
        """A fault's line: the place of the key, its name, what is wrong."""
        told = str(text).partition("\nhint: ")[0]  # a hint stands at the end of a message, not among its faults
        return f"{self.place(key)}: {'.'.join(map(str, key))}: {told}"


def _line_of(fault: str) -> int:
    found = LINE.match(fault)
    return int(found[1]) if found else 0
