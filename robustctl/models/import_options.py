"""From what a user typed after ``models import`` to an entry. No torch here."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustctl.conventions import KNOWN
from robustctl.discovery import names, unknown
from robustctl.errors import RequestError
from robustctl.models import entry as entries
from robustctl.models.entry import Entry
from robustctl.reading import parse_yaml
from robustctl.threats import Threat, require_plausible
from robustctl.user_code import UserCode


@dataclass(frozen=True)
class ImportOptions:
    """The options of ``models import`` as they were written; None if they were not given."""

    arch: str | None = None
    set_: list[str] | None = None
    dataset: str | None = None
    mean: str | None = None
    std: str | None = None
    norm: str | None = None
    eps: str | None = None
    classes: str | None = None
    input_shape: str | None = None
    at: str | None = None
    strip: str | None = None
    drop: list[str] | None = None
    licence: str | None = None
    description: str | None = None
    model_code: UserCode | None = None
    no_normalisation: bool = False

    def says_normalisation(self, yaml_file: Path | None) -> bool:
        """Whether the user has said how images are normalised; code of their own takes pixels in [0,1]."""
        given = self.no_normalisation or self.mean is not None or self.model_code is not None
        return given or (yaml_file is not None and "normalization" in entries.read_mapping(yaml_file))


def entry_from(options: ImportOptions, yaml_file: Path | None, file_name: str) -> Entry:
    """Make the entry; options override the YAML file.

    Raises:
        RequestError: something is missing or wrong, in the words of the options.
    """
    content: dict[str, Any] = entries.read_mapping(yaml_file) if yaml_file else {}
    content.setdefault("description", f"imported from {file_name}")
    content |= _given(options)
    content |= _architecture(options, content)
    content |= _shape(options, content)
    content["keys"] = _mapping("keys", content.get("keys"))
    entry = entries.parse(content, str(yaml_file or "models import"))
    entry = entry.model_copy(update={"keys": entry.keys.changed(options.at, options.strip, options.drop)})
    if entry.norm and entry.eps:
        require_plausible([Threat.of(entry.norm, entry.eps)], entry.input_shape, key="--eps", way_on="")
    return entry


def _given(options: ImportOptions) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value
        for key in ("dataset", "norm", "eps", "licence", "description")
        if (value := getattr(options, key)) is not None
    }
    if (options.mean is None) != (options.std is None):
        raise RequestError("--mean and --std go together")
    if options.no_normalisation and options.mean is not None:
        raise RequestError("--no-normalisation and --mean exclude each other")
    if options.no_normalisation:
        found["normalization"] = None
    if options.mean is not None and options.std is not None:
        found["normalization"] = {"mean": _numbers("--mean", options.mean), "std": _numbers("--std", options.std)}
    return found


def _architecture(options: ImportOptions, content: dict[str, Any]) -> dict[str, Any]:
    arguments = dict(_assignment(text) for text in options.set_ or [])
    if (code := options.model_code) is not None:
        if options.arch is not None:
            raise RequestError("--arch names one of robustctl's architectures, --model-code your own; give one of them")
        record = {"file": code.file.name, "name": code.name, "sha256": code.sha256}
        return {"architecture": {"name": "own", "args": {**code.args, **arguments}, "code": record}}
    if options.arch is None and "architecture" not in content:
        raise RequestError(
            f"--arch (or --model-code) is missing; it is one of {', '.join(names('robustctl.architectures'))}"
        )
    if options.arch is not None:
        called, bracket, listed = options.arch.partition("(")
        if bracket:  # as `models list` writes an architecture with its arguments
            given = " ".join(f"--set {one}" for one in listed.rstrip(")").split(","))
            raise RequestError(f"--arch takes a name without arguments; write --arch {called} {given}")
        content = {"architecture": {"name": options.arch, "args": {}}}
    architecture = _mapping("architecture", content["architecture"])
    name = architecture.get("name")
    if str(name).partition("/")[0] not in names("robustctl.architectures"):
        raise unknown("architecture", str(name), names("robustctl.architectures"))
    return {
        "architecture": architecture | {"args": _mapping("architecture.args", architecture.get("args")) | arguments}
    }


def _mapping(key: str, value: object) -> dict[str, Any]:
    """The mapping that a file has under ``key``, empty if it has nothing there; raises RequestError if it is no
    mapping."""
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{key}: {value!r} is no mapping of keys to values")
    return value or {}


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RequestError(f"--set {text!r} is not of the form key=value, e.g. depth=10")
    return key, parse_yaml(value, f"--set {text!r}: its value")


def _shape(options: ImportOptions, content: dict[str, Any]) -> dict[str, Any]:
    """Known data sets give shape and classes by themselves."""
    dataset = content.get("dataset")
    if dataset is None:
        raise RequestError("--dataset is missing, e.g. cifar10")
    if not isinstance(dataset, str):
        raise RequestError(f"dataset: {dataset!r} is no name, e.g. cifar10")
    shape: Any
    known_set = KNOWN.get(dataset)
    shape, classes = (known_set.input_shape, known_set.n_classes) if known_set else (None, None)
    if options.input_shape is not None:
        shape = tuple(_numbers("--input-shape", options.input_shape))
        if not all(value.is_integer() and value > 0 for value in shape):
            raise RequestError(f"--input-shape {options.input_shape!r} is not three whole numbers like 3,64,64")
    shape = shape if options.input_shape else content.get("input_shape", shape)
    named = _class_names(options.classes) if options.classes and not options.classes.isdecimal() else None
    classes = content.get("n_classes", classes)
    if options.classes:
        classes = len(named) if named else int(options.classes)
    if shape is None or classes is None:
        known = ", ".join(sorted(KNOWN))
        raise RequestError(f"data set {dataset!r} needs --input-shape and --classes (known without them: {known})")
    return {"input_shape": shape, "n_classes": classes} | ({"classes": named} if named else {})


def _class_names(path: str) -> list[str]:
    """The names of the classes from a YAML file that lists them in the order of the logits."""
    names = entries.read_yaml(Path(path))
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise RequestError(f"--classes {path}: it is neither a number nor a file that lists the names of the classes")
    return [str(name) for name in names]


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(value) for value in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise RequestError(f"{option} {text!r} is not a list of numbers like 0.5,0.5,0.5")
    return numbers
