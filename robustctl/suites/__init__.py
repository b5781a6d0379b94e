"""Suites: YAML files that name threats, corruptions and groups of them. This is their only reader."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from robustctl import corruptions
from robustctl.conventions import CONVENTIONS
from robustctl.discovery import did_you_mean, unknown
from robustctl.errors import RequestError
from robustctl.perturbations import base
from robustctl.perturbations.base import Limit
from robustctl.reading import is_file, parse_yaml, read_text
from robustctl.threats import NORMS, Threat

MAX_BYTES = 1 << 16
Member = Threat | Limit


class Suite(BaseModel):
    """The content of a suite's file.

    Attributes:
        description: in one sentence.
        threats: ``elastic:0.5`` or, for the usual budget of the data set, ``elastic``; norms likewise.
        corruptions: names, or ``all``; each at all severities.
        groups: threats and corruptions whose worst, mean and union are reported, by the group's name. If the suite has
            a threat and a corruption of one name, the threat counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    threats: tuple[str, ...] = ()
    corruptions: Literal["all"] | tuple[str, ...] = ()
    groups: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @field_validator("threats", "corruptions", "groups", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: ValidationInfo) -> Any:
        lists = value.values() if info.field_name == "groups" and isinstance(value, dict) else [value]
        for names in lists:
            if info.field_name == "corruptions" and names == "all":
                continue
            if not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
                raise ValueError("give a list of names, for example [fog, snow]")
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Suite":
        if not self.threats and not self.corruptions:
            raise ValueError("it names neither threats nor corruptions")
        if len(set(self.threats)) < len(self.threats) or len(set(self.chosen_corruptions)) < len(
            self.chosen_corruptions
        ):
            raise ValueError("a threat or a corruption is named twice")
        for name in self.chosen_corruptions:
            if name not in corruptions.NAMES:
                raise ValueError(f"unknown corruption {name!r}.{did_you_mean(name, corruptions.NAMES)}")
        known = {*self.threats, *self.chosen_corruptions}
        for group, names in self.groups.items():
            if missing := [name for name in names if name not in known]:
                raise ValueError(
                    f"group {group!r} names {missing[0]!r}, which is not among the suite's threats and corruptions."
                    f"{did_you_mean(missing[0], sorted(known))}"
                )
        return self

    @property
    def chosen_corruptions(self) -> tuple[str, ...]:
        """The corruptions by name."""
        return corruptions.NAMES if self.corruptions == "all" else self.corruptions

    def members(self, dataset: str) -> dict[str, Member]:
        """The threats with their budgets, by the text in the file.

        Raises:
            RequestError: no such threat, a bad budget, two texts for one threat, or no usual radius for the data set.
        """
        found = {text: parse(text, dataset) for text in self.threats}
        sizes = [(one.norm, one.eps) if isinstance(one, Threat) else (one.name, one.budget) for one in found.values()]
        if len(set(sizes)) < len(sizes):
            shown = ", ".join(sorted(map(str, found.values())))
            raise RequestError(f"two threats of the suite are the same: {shown}")
        return found


def parse(text: str, dataset: str) -> Member:
    """A threat as users write it: ``linf:8/255``, ``elastic:0.5``, or a name alone for the usual budget.

    Raises:
        RequestError: as ``Suite.members``.
    """
    name, colon, _ = text.partition(":")
    name = name.strip()
    if name in NORMS:
        if colon:
            return Threat.parse(text)
        for threat in CONVENTIONS[dataset].threats if dataset in CONVENTIONS else ():
            if threat.norm == name:
                return threat
        raise RequestError(f"no usual radius of {name} is known for data set {dataset!r}; write it: {name}:RADIUS")
    if name not in (names := base.names()):
        raise unknown("threat", name, [*NORMS, *names])
    return Limit.parse(text, dataset)


def names() -> list[str]:
    """The shipped suites."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load(text: str) -> tuple[str, Suite]:
    """A shipped suite by its name, or one in a YAML file; returns its name and what it says.

    Raises:
        RequestError: there is neither, or the file has faults, which are named.
    """
    if text in names():
        return text, _checked(parse_yaml((_folder() / f"{text}.yaml").read_text("utf-8"), text), text)
    path = Path(text)
    if not is_file(path):
        raise RequestError(f"{unknown('suite', text, names())} Or give a YAML file, e.g. --suite my.yaml")
    return path.stem, _checked(parse_yaml(read_text(path, MAX_BYTES), str(path)), str(path))


def of_threats(texts: list[str]) -> Suite:
    """The suite that ``--threat`` stands for: threats and corruptions by themselves. A name of both is the threat."""
    chosen = tuple(text for text in texts if text in corruptions.NAMES and text not in base.names())
    return _checked({"threats": [text for text in texts if text not in chosen], "corruptions": chosen}, "--threat")


def _folder() -> Any:
    return resources.files(__name__)


def _checked(content: Any, source: str) -> Suite:
    if not isinstance(content, dict):
        raise RequestError(f"suite {source} holds no mapping of keys to values")
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        known = ", ".join(Suite.model_fields)
        faults = []
        for fault in error.errors():
            place = ".".join(map(str, fault["loc"]))
            text = (
                f"unknown key. Known: {known}"
                if fault["type"] == "extra_forbidden"
                else fault["msg"].removeprefix("Value error, ")
            )
            faults.append(f"{place}: {text}" if place else text)
        raise RequestError(f"suite {source}: " + "; ".join(faults)) from None
