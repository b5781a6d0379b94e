"""A study's YAML file as checked values, and its only reader. No torch here."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveInt, Tag, ValidationError

from robustctl import reading
from robustctl.errors import RequestError
from robustctl.recipe.fields import Block, Radii
from robustctl.yaml_faults import Document, Key, counted, dotted, messages

START = "start"
"""In the place of a recipe: the model as it is, untrained by the study."""
DEFAULT_PROTOCOL = "adaptive"

LINE = re.compile(r"line (\d+)")
NEEDED = ("source", "code")
"""Keys without which the block around them says nothing."""


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


class Coded(Block):
    """A model that the user's own code builds: ``FILE.py:NAME``, and the file of its weights if the code has none."""

    code: str
    weights: Path | None = None

    def __str__(self) -> str:
        return self.code


Texts = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Model = Annotated[
    Annotated[str, Tag("name")] | Annotated[Coded, Tag("own code")],
    Discriminator(lambda value: "own code" if isinstance(value, dict | Coded) else "name"),
]
Models = Annotated[tuple[Model, ...], BeforeValidator(_one_or_many)]
Seed = Annotated[NonNegativeInt, Field(lt=2**63)]


class Study(Block):
    """A study: every combination of its lists is trained once and evaluated once per protocol and union of threats.

    Attributes:
        models: what ``finetune`` starts from. architectures: what ``train`` trains from scratch. Either may be code of
            the user's own.
        recipes: names or files, as ``--recipe``; ``start`` is the model as it is.
        seeds: of the trainings. The attacks have seed 0.
        data: the place of the images; without, the usual images of each recipe's data set.
        n: how many images of the evaluated split, for data that do not say it; all without.
        threats: unions to evaluate; without, the one that each recipe evaluates.
        protocols: of the evaluations; an empty list trains alone.
        precision: of the attacks, as ``eval --precision``.
        set: keys of the recipes to change, as ``--set``.
    """

    models: Models = ()
    architectures: Models = ()
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

    def contradictions(self) -> list[tuple[Key, str]]:
        """Faults that no key has alone, by their place: nothing to do, or the same thing twice."""
        faults: list[tuple[Key, str]] = []
        if not self.models and not self.architectures:
            faults.append((("models",), "name at least one model, or one of architectures to train from scratch"))
        if not self.recipes:
            faults.append((("recipes",), "name at least one, or leave the key out to evaluate the models as they are"))
        for one in self.architectures:
            if isinstance(one, Coded) and one.weights is not None:
                faults.append((("architectures",), f"{one} is trained from random weights; leave weights out"))
        for key in ("models", "architectures", "recipes", "seeds", "protocols"):
            values = getattr(self, key)
            if twice := sorted({str(one) for one in values if values.count(one) > 1}):
                faults.append(((key,), f"{', '.join(twice)} stands there twice"))
        return faults


class StudyFile(Document):
    """A study as it was read, with the line of every key.

    Attributes:
        path: the file.
        study: what of its content has no fault of form; ``refuse`` is told the others too.
    """

    def __init__(self, path: Path) -> None:
        """Read a file; raises RequestError if it holds no keys. Faults of form lie in ``faults``."""
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
        self._kept: dict[str, list[int]] = {}
        self._dropped: set[str] = set()
        try:
            self.study = Study.model_validate(values)
        except ValidationError as error:
            self.faults += messages(self, error, Study, ())
            self.study = Study.model_validate(self._sound(error))
        for key, told in self.study.contradictions():
            about = {"models", "architectures"} if key == ("models",) else {str(key[0])}
            if not about & self._dropped:
                self.faults.append(self.fault(key, told))

    def _sound(self, error: ValidationError) -> dict[str, Any]:
        """The values without those that have a fault, so that the others can be judged in the same message."""
        sound = deepcopy(self.values)
        bad: dict[str, set[int]] = {}
        for fault in error.errors():
            key, *inner = map(str, fault["loc"])
            many = isinstance(sound.get(key), list)
            at = int(inner[0]) if many and inner and inner[0].isdecimal() else None
            one = sound.get(key) if at is None else sound[key][at]
            if isinstance(one, dict) and inner and inner[-1] in one and inner[-1] not in NEEDED:
                del one[inner[-1]]
            elif at is not None:
                bad.setdefault(key, set()).add(at)
            else:
                self._dropped.add(key)
        for key, items in bad.items():
            kept = [i for i in range(len(sound[key])) if i not in items]
            if kept:
                self._kept[key], sound[key] = kept, [sound[key][i] for i in kept]
            else:
                self._dropped.add(key)
        return {key: value for key, value in sound.items() if key not in self._dropped}

    def refuse(self, faults: list[str]) -> None:
        """Raise RequestError with these faults, unless there are none."""
        if faults := sorted(dict.fromkeys(faults), key=_line_of):
            listed = "\n  ".join(faults)
            raise RequestError(f"study {self.path} has {counted(len(faults))}:\n  {listed}")

    def fault(self, key: Key, text: object) -> str:
        """A fault's line: the place of the key in the file, its name, what is wrong."""
        told = str(text).partition("\nhint: ")[0]  # a hint stands at the end of a message, not among its faults
        name, *inner = key
        if inner and isinstance(inner[0], int):
            if not isinstance(self.values.get(str(name)), list):
                inner = inner[1:]  # one value that stands for a list of one
            elif name in self._kept:
                inner = [self._kept[str(name)][int(inner[0])], *inner[1:]]
        key = (name, *inner)
        return f"{self.place(key)}: {dotted(key)}: {told}"


def _line_of(fault: str) -> int:
    found = LINE.match(fault)
    return int(found[1]) if found else 0
