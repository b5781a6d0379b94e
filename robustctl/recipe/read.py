"""The only reader of recipes: one YAML per experiment, checked whole before anything starts. No torch here.

A fault is reported by the user's own key and the line it stands on; all faults are reported at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustctl import discovery, reading
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.recipe import base
from robustctl.recipe.method import MethodConfig
from robustctl.recipe.schema import Settings, takes_no_attack
from robustctl.threats import hull_l2_radius
from robustctl.yaml_faults import Document, Key, counted, dotted, messages

METHODS = "robustctl.training.methods"
MAX_BYTES = 1_000_000
NOT_TRAINED = ("about", "reported")
"""Blocks that tell people something and change no training."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        name: ``dataset/name`` of a shipped recipe, or the path of a file.
        path: the file that it was read from.
        overrides: the ``--set`` texts that were applied, in order.
        settings: its content.
    """

    name: str
    path: Path
    overrides: tuple[str, ...]
    settings: Settings

    def text(self) -> str:
        """The recipe as it is written, without its overrides; one with a ``base`` as the whole recipe that it means."""
        return written(self.path)

    @property
    def short_name(self) -> str:
        """The file's name without its ending: the last part of a run's name."""
        return self.path.stem

    def resolved(self) -> dict[str, Any]:
        """Everything that was decided, defaults included, as plain values."""
        return self.settings.model_dump(mode="json")


def root() -> Path:
    """The folder of the shipped recipes: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """All shipped recipes as ``dataset/name``."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in root().glob("*/*.yaml"))


def load(name_or_path: str, overrides: Sequence[str] = (), dataset: str | None = None) -> Recipe:
    """Find, read and check a recipe.

    Args:
        name_or_path: ``e-at`` (of ``dataset``), ``cifar10/e-at``, or the path of a YAML file.
        overrides: texts such as ``optim.lr=0.01``; the value is read as YAML.
        dataset: the model's data set; the recipe must be for it. With None any is accepted.

    Raises:
        RequestError: no such recipe, or it has faults; all of them are listed with their lines.
    """
    path = find(name_or_path, dataset)
    name = f"{path.parent.name}/{path.stem}" if path.is_relative_to(root()) else str(path)
    recipe = Recipe(name, path, tuple(overrides), _check(_Text(path, overrides)))
    if dataset is not None and recipe.settings.dataset != dataset:
        raise RequestError(
            f"recipe {name} is for dataset {recipe.settings.dataset!r}, the model for {dataset!r}; "
            f"copy it and edit it: robustctl recipes copy {name} my-recipe.yaml"
        )
    return recipe


def from_resolved(values: dict[str, Any]) -> Settings:
    """Read back what ``Recipe.resolved`` gave.

    Raises:
        RequestError: it does not fit this version's recipes any more.
    """
    try:
        config = discovery.load(METHODS, values["method"]["name"], "method").Config
        return Settings.model_validate({**values, "method": config.model_validate(values["method"])})
    except (ValidationError, KeyError, TypeError) as error:
        raise RequestError(f"the recorded recipe is not one of this version: {error}") from None


def differences(old: Any, new: Any, key: Key = ()) -> list[str]:
    """Where two resolved recipes differ, one text per key."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in dict.fromkeys([*old, *new]) if key or name not in NOT_TRAINED]
        return [line for name in names for line in differences(old.get(name), new.get(name), (*key, name))]
    return [] if old == new else [f"{dotted(key)} (given {new!r}, the run has {old!r})"]


def find(name_or_path: str, dataset: str | None = None) -> Path:
    """The file that a recipe's name or path means; raises RequestError with the list of what there is."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RequestError(f"no recipe file at {path}")
        return path
    if "/" in name_or_path:
        if name_or_path not in names():
            raise unknown("recipe", name_or_path, names())
        return root() / f"{name_or_path}.yaml"
    if dataset is None:
        of_name = [name for name in names() if name.endswith(f"/{name_or_path}")]
        if not of_name:
            raise unknown("recipe", name_or_path, names())
        raise RequestError(f"recipe {name_or_path!r} is there for several datasets; say which: {', '.join(of_name)}")
    return _of_dataset(name_or_path, dataset)


def written(path: Path) -> str:
    """The text of a recipe's file; of one with a ``base``, its header and all the values that it means.

    Raises:
        RequestError: the file cannot be read, or its base is none.
    """
    text = _Text(path, ())
    return base.whole(text.text, text.values) if text.has_base else text.text


def hull_line(settings: Settings, dimension: int) -> str | None:
    """Whether E-AT's assumption holds for these radii, in one line; None if it does not apply.

    Training on l_1 and l_inf alone covers l_2 if the l_2 ball lies in the hull of both (Croce and Hein 2022, Theorem
    3.1). For CIFAR-10's radii the exact radius is 0.6138; the paper prints 0.6178, which its own formula does not give.

    Args:
        dimension: number of input values (channels times height times width).
    """
    trained = {threat.norm: threat for threat in settings.train_threats}
    judged = {threat.norm: threat for threat in settings.evaluate_threats}
    if set(trained) != {"linf", "l1"} or "l2" not in judged:
        return None
    radius = hull_l2_radius(trained["linf"].eps, trained["l1"].eps, dimension)
    verdict = "holds" if radius >= judged["l2"].eps else "DOES NOT hold"
    return (
        f"E-AT's assumption {verdict}: the hull of {trained['linf']} and {trained['l1']} contains the l2 ball of "
        f"radius {radius:.4f}; evaluated is {judged['l2']}"
    )


def _of_dataset(name: str, dataset: str) -> Path:
    of_dataset = [option.split("/")[1] for option in names() if option.startswith(f"{dataset}/")]
    if not of_dataset:
        known = ", ".join(sorted({option.split("/")[0] for option in names()}))
        raise RequestError(
            f"no recipes for dataset {dataset!r} (there are some for {known}); copy the nearest and edit it: "
            f"robustctl recipes copy cifar10/{name} {name}.yaml"
        )
    if name not in of_dataset:
        raise unknown(f"recipe for {dataset}", name, of_dataset)
    return root() / dataset / f"{name}.yaml"


class _Text(Document):
    """A recipe's raw values, and for every key the place that set it."""

    def __init__(self, path: Path, overrides: Sequence[str], *, is_base: bool = False) -> None:
        super().__init__()
        self.path, self.is_base = path, is_base
        self.text, self.has_base = "", False
        self.values = self._read()
        for override in overrides:
            self._override(override)

    def _read(self) -> dict[str, Any]:
        try:
            self.text = reading.read_text(self.path, MAX_BYTES)
        except FileNotFoundError:
            raise RequestError(f"cannot read recipe {self.path}: there is no such file") from None
        node, values = reading.compose_yaml(self.text, f"recipe {self.path}")
        if not isinstance(values, dict) or node is None:
            raise RequestError(f"recipe {self.path} holds no mapping of keys to values")
        self.note_lines(node, ())
        self.has_base = base.KEY in values
        return self._on_base(values[base.KEY], values) if self.has_base and not self.is_base else values

    def _on_base(self, name: Any, own: dict[str, Any]) -> dict[str, Any]:
        """The values of the base with this recipe's own; a base's places are told by its name."""
        place = self.place((base.KEY,))
        if not isinstance(name, str):
            raise RequestError(f"recipe {self.path}: {place}: base: give the name of a recipe, as in base: cifar10/avg")
        beside = self.path.parent / name  # a file is named as seen from this one
        other = _Text(find(str(beside) if name.endswith((".yaml", ".yml")) else name), (), is_base=True)
        if other.has_base:
            raise RequestError(f"recipe {self.path}: {place}: base: {name} has a base itself; take that one")
        self.faults += other.faults
        self.places = {**{key: f"{name}, {line}" for key, line in other.places.items() if key}, **self.places}
        return base.merged(other.values, own)

    def _override(self, override: str) -> None:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise RequestError(f"--set {override!r} is not of the form key=value, e.g. optim.lr=0.01")
        value = reading.parse_yaml(text, f"--set {override!r}: its value")
        block = self.values
        for depth, part in enumerate(parts[:-1], start=1):
            if not isinstance(block.get(part), dict):
                block[part] = {}
                self.places.pop(tuple(parts[:depth]), None)  # the place of what is replaced
            block = block[part]
        block[parts[-1]] = value
        self.places = {key: place for key, place in self.places.items() if key[: len(parts)] != tuple(parts)}
        for i in range(1, len(parts) + 1):
            self.places.setdefault(tuple(parts[:i]), f"--set {override}")
        self.places[tuple(parts)] = f"--set {override}"


def _check(text: _Text) -> Settings:
    faults = list(text.faults)
    values = dict(text.values)
    method_faults = list(_method(text, values))
    faults += method_faults
    faults += _needless_attack(text, values)
    settings = None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults += messages(text, error, Settings, (), skip=("method",) if method_faults else None)
    if faults or settings is None:
        listed = "\n  ".join(dict.fromkeys(faults))
        raise RequestError(f"recipe {text.path} has {counted(len(set(faults)))}:\n  {listed}")
    return settings


def _needless_attack(text: _Text, values: dict[str, Any]) -> list[str]:
    """Remove an attack block that the method does not take, so that its keys are not judged; returns the fault."""
    method = values["method"] if isinstance(values.get("method"), MethodConfig) else None
    if method is None or method.takes or values.get("attack") is None:
        return []
    del values["attack"]
    return [f"{text.place(('attack',))}: {takes_no_attack(method)}"]


def _method(text: _Text, values: dict[str, Any]) -> Iterator[str]:
    """Replace the method's block by its checked ``Config``, or yield what is wrong with it."""
    block = values.get("method")
    if not isinstance(block, dict) or not isinstance(block.get("name"), str):
        return
    try:
        config = discovery.load(METHODS, block["name"], "method").Config
    except RequestError as error:
        yield f"{text.place(('method', 'name'))}: method.name: {error}"
        return
    try:
        values["method"] = config.model_validate(block)
    except ValidationError as error:
        yield from messages(text, error, config, ("method",))
