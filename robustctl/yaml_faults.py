"""A YAML file whose schema is closed: every fault is told with the user's own key and its line, all at once. No torch
here.
"""

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from robustctl.discovery import did_you_mean

Key = tuple[str | int, ...]


class Document:
    """The raw values of a YAML file, and for every key the place that set it.

    Attributes:
        values: what the file holds.
        places: ``line 3`` by key.
        faults: what is wrong already, a line of text each.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[Key, str] = {(): "line 1"}
        self.faults: list[str] = []

    def note_lines(self, node: yaml.Node, key: Key) -> None:
        """Note the line of every key below a node, and which keys are given twice."""
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = (*key, str(name.value))
                if inner in self.places:
                    self.faults.append(f"line {name.start_mark.line + 1}: {dotted(inner)}: given twice")
                self.places[inner] = f"line {name.start_mark.line + 1}"
                self.note_lines(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self.places[(*key, i)] = f"line {value.start_mark.line + 1}"
                self.note_lines(value, (*key, i))

    def place(self, key: Key) -> str:
        """The line or option that set ``key``, or the block that lacks it."""
        while key not in self.places:
            key = key[:-1]
        return self.places[key]


def dotted(key: Key) -> str:
    """``optim.lr`` for ("optim", "lr")."""
    return ".".join(map(str, key))


def counted(n: int) -> str:
    """``1 fault``, ``2 faults``."""
    return "1 fault" if n == 1 else f"{n} faults"


def messages(
    text: Document, error: ValidationError, model: type[BaseModel], prefix: Key, skip: Key | None = None
) -> Iterator[str]:
    """One line per fault that pydantic found, in the order of the schema.

    Args:
        model: what the values at ``prefix`` were checked as.
        skip: faults below this key were told already.
    """
    for fault in error.errors():
        key = prefix + _own_key(text.values, prefix, fault["loc"], fault["type"] == "missing")
        if skip is not None and key[: len(skip)] == skip:
            continue
        place, name = text.place(key), dotted(key)
        if fault["type"] == "extra_forbidden":
            options = _fields(model, key[len(prefix) : -1], text.values, prefix)
            yield f"{place}: {name}: unknown key.{did_you_mean(str(key[-1]), options)} Known: {', '.join(options)}."
        elif fault["type"] == "missing":
            yield f"{place}: {name}: missing"
        elif fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
            kinds = _blocks(model, key[len(prefix) :], text.values, prefix)
            yield _unnamed(text, (*key, "name"), fault["input"].get("name"), sorted(filter(None, map(_tag, kinds))))
        elif not key:
            yield from (_placed(text, line) for line in _reason(fault).splitlines())
        else:
            yield f"{place}: {name}: {_reason(fault)}{_given(fault)}"


def _placed(text: Document, line: str) -> str:
    """A message of a whole-recipe check begins with the key it is about."""
    key = tuple(line.split(":")[0].split(" ")[0].split("."))
    return f"{text.place(key)}: {line}"


def _unnamed(text: Document, key: Key, given: object, names: list[str]) -> str:
    """The message about a block of several kinds whose name is missing (None), or is none of the kinds'."""
    if given is None:
        return f"{text.place(key)}: {dotted(key)}: missing; give one of {', '.join(names)}"
    near = did_you_mean(str(given), names)
    return f"{text.place(key)}: {dotted(key)}: unknown name {given!r}.{near} Available: {', '.join(names)}"


def _reason(fault: Any) -> str:
    message: str = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _given(fault: Any) -> str:
    """The value as the user gave it, unless it is a block or the message has it already."""
    value = fault["input"]
    if not isinstance(value, str | int | float | bool | None):
        return ""
    return "" if isinstance(value, str) and repr(value) in fault["msg"] else f" (given: {value!r})"


def _own_key(values: Any, prefix: Key, location: Sequence[str | int], missing: bool) -> Key:
    """Pydantic's location without the parts that it invents (names of union members, ``[key]``)."""
    for part in prefix:
        values = values[part]
    key: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(values, dict) and (part in values or (missing and i == len(location) - 1)):
            key.append(part)
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            key.append(part)
            values = values[part]
    return tuple(key)


def _fields(model: type[BaseModel], key: Key, values: Any, prefix: Key) -> list[str]:
    """Names of the keys that may stand in the block at ``key`` of a model."""
    return sorted({name for block in _blocks(model, key, values, prefix) for name in block.model_fields})


def _blocks(model: type[BaseModel], key: Key, values: Any, prefix: Key) -> list[type[BaseModel]]:
    """The models that the block at ``key`` of a model may be of: all kinds, or the one that its ``name`` tells."""
    block = values
    for part in prefix:
        block = block[part]
    options: list[type[BaseModel]] = [model]
    for part in key:
        block = block[part]
        if isinstance(part, int):
            continue
        options = [
            inner
            for option in options
            if part in option.model_fields
            for inner in models_in(option.model_fields[part].annotation)
        ]
        tagged = [option for option in options if isinstance(block, dict) and _tag(option) == block.get("name")]
        options = tagged or options
    return options


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside a type such as ``Annotated[A | B, ...] | None`` or ``tuple[A, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple, list):
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    tags = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return tags[0] if len(tags) == 1 else None
