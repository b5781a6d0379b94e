"""The class of a model that an image belongs to: names in the data are matched with the model's own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from robustctl.data.encoded import EncodedData
from robustctl.data.image_data import ImageData
from robustctl.discovery import did_you_mean
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec

Data = TypeVar("Data", ImageData, EncodedData)
Mapped = Mapping[str, str | int]
"""Classes of the data (by name or number) to the model's (by name or number)."""

SHOWN = 12
HOW = "give the model's class of each: --classes map.yaml with lines like 'cat: 3' or 'kitty: cat'"


def matched(data: Data, spec: ModelSpec, mapping: Mapped | None = None) -> Data:
    """The same images with the labels that the model's classes have.

    Names are matched with the model's own if these are known; whole numbers are the model's numbers; else all classes
    are taken in their order, if there are as many as the model has.

    Raises:
        RequestError: a class of the data is none of the model's, or their number differs and nothing tells which is
            which.
    """
    names = data.class_names
    if mapping is not None:
        lookup: list[int | None] = _mapped(data, spec, mapping)
        note = None
    elif names is None:
        return data
    else:
        lookup, note = _by_names(names, spec, data.numbered, data.where)
    place = torch.tensor([-1 if number is None else number for number in lookup], dtype=torch.int64)
    y = place[data.y]
    if (y < 0).any():
        left = sorted({_shown(data, label) for label in set(data.y[y < 0].tolist())})
        raise RequestError(f"--classes says nothing of {_listed(left)}, which {data.where} holds")
    notes = (*data.notes, note) if note else data.notes
    named = spec.class_names or (names if lookup == list(range(spec.n_classes)) else None)
    return replace(data, y=y, n_classes=spec.n_classes, class_names=named, numbered=True, notes=notes)


def _by_names(names: Sequence[str], spec: ModelSpec, numbered: bool, where: str) -> tuple[list[int | None], str | None]:
    own, n = spec.class_names, spec.n_classes
    found: list[int | None] = _positions(names, own) if own else [None] * len(names)
    if None not in found and len(set(found)) == len(found):
        return found, None
    numbers: list[int | None] = [int(name) if _is_number(name) else None for name in names]
    in_step = not numbered or numbers == list(range(len(names)))
    if in_step and all(number is not None and number < n for number in numbers):
        return numbers, None
    if len(names) != n:
        theirs = f"its classes are {_listed(own)}" if own else "the names of its classes are not known"
        raise RequestError(f"{where} has {len(names)} classes ({_listed(names)}), the model {n}; {theirs}: {HOW}")
    ordered = _numbers_at_the_end(names)
    if ordered is not None and sorted(ordered) == list(range(n)):
        return list(ordered), None
    if numbered and all(position in (None, i) for i, position in enumerate(found)):
        return list(range(n)), _by_number(names, where) if own else None
    if own:
        strangers = [name for name, position in zip(names, found, strict=True) if position is None]
        near = did_you_mean(strangers[0], own) if strangers else ""
        raise RequestError(
            f"{where} has classes that are none of the model's: {_listed(strangers or names)}.{near} "
            f"The model's are {_listed(own)}: {HOW}"
        )
    if ordered is not None and list(names) != [name for _, name in sorted(zip(ordered, names, strict=True))]:
        raise RequestError(f"{where}: the order of the classes {_listed(names)} is by name or by number: {HOW}")
    return list(range(n)), _by_order(names, where)


def _by_order(names: Sequence[str], where: str) -> str:
    return f"classes of {where} are taken in the order of their names: {names[0]} = 0, {names[1]} = 1, ..."


def _by_number(names: Sequence[str], where: str) -> str:
    return f"labels of {where} are taken by their numbers; their names ({_listed(names)}) are not the model's"


def _mapped(data: ImageData | EncodedData, spec: ModelSpec, mapping: Mapped) -> list[int | None]:
    names = data.class_names or tuple(str(i) for i in range(data.n_classes))
    positions = {plain(name): i for i, name in enumerate(names)}
    lookup: list[int | None] = [None] * len(names)
    for key, value in mapping.items():
        position = positions.get(plain(str(key)))
        if position is None:
            near = did_you_mean(str(key), names)
            raise RequestError(f"--classes: {data.where} has no class {key!r}.{near} Its classes: {_listed(names)}")
        lookup[position] = _number_of(value, spec)
    return lookup


def _number_of(value: str | int, spec: ModelSpec) -> int:
    own = spec.class_names
    if own and (position := _positions([str(value)], own)[0]) is not None:
        return position
    if _is_number(str(value)) and int(value) < spec.n_classes:
        return int(value)
    known = f"its classes: {_listed(own)}" if own else f"its classes are known as 0..{spec.n_classes - 1} alone"
    raise RequestError(f"--classes: the model has no class {value!r}; {known}")


def _positions(names: Sequence[str], own: Sequence[str]) -> list[int | None]:
    """Where each name stands among the model's: exactly, else whatever the case of letters and the marks between."""
    exact = {name: i for i, name in enumerate(own)}
    alike: dict[str, list[int]] = {}
    for i, name in enumerate(own):
        alike.setdefault(plain(name), []).append(i)
    found: list[int | None] = []
    for name in names:
        near = alike.get(plain(name), [])
        found.append(exact.get(name, near[0] if len(near) == 1 else None))
    return found


def plain(name: str) -> str:
    """A name without what its spellings differ in: case, underscores, hyphens and spaces."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def _numbers_at_the_end(names: Sequence[str]) -> list[int] | None:
    """3 and 4 for class-3 and class-4: the numbers of names that differ in nothing else; None for other names."""
    matches = [re.fullmatch(r"(.*?)(\d{1,9})", name, re.ASCII) for name in names]
    found = [(match[1], int(match[2])) for match in matches if match]
    if len(found) < len(names) or len({prefix for prefix, _ in found}) != 1 or not found[0][0]:
        return None
    return [number for _, number in found]


def _shown(data: ImageData | EncodedData, label: int) -> str:
    return data.class_names[label] if data.class_names else str(label)


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
