"""A registry entry: a published model, the places of its weights, and what is known about it. No torch here."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from robustctl.errors import RequestError
from robustctl.files import write_text
from robustctl.hub.names import COMMIT, REPO_ID
from robustctl.reading import parse_yaml, read_text
from robustctl.spec import ModelSpec, Scalar
from robustctl.threats import Norm, Threat

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
# The letters are spelt out because pydantic's engine reads \w as all of Unicode: wrong, and 50 ms slower to compile.
MAX_BYTES = 1_000_000

# Encrypted, but on this machine itself (a mirror in a tunnel, the tests' own server).
Address = Annotated[str, Field(pattern=r"^(https://[^/\s]|http://(127\.0\.0\.1|localhost|\[::1\])[:/])")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Accuracy(BaseModel):
    """One published or measured accuracy. Without ``norm`` it is the clean one.

    Attributes:
        value: in [0, 1].
        n: number of images, if it is known.
        split: of the entry's dataset.
        protocol: ``clean``, ``AutoAttack``, ``standard``, ``PGD-100`` ...
        source: the paper or page that has the number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Annotated[float, Field(ge=0, le=1)]
    norm: Norm | None = None
    eps: str | None = None
    n: Annotated[int, Field(gt=0)] | None = None
    split: str = "test"
    protocol: str
    source: str

    @model_validator(mode="after")
    def _consistent(self) -> "Accuracy":
        if (self.norm is None) != (self.eps is None):
            raise ValueError("norm and eps go together")
        if self.norm and self.eps:
            Threat.of(self.norm, self.eps)
        return self


class WeightsSource(BaseModel):
    """One place of the weights: a hub repo's file, a plain https file, or a page from which the user brings it.

    ``sha256`` and ``size`` (bytes) are of the file as published. A missing hash is taken from the first download.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: Annotated[str, Field(pattern=f"^{REPO_ID.pattern}$")] | None = None
    revision: str | None = None
    url: Address | None = None
    page: Address | None = None
    file: str
    size: Annotated[int, Field(gt=0)] | None = None
    sha256: Sha256 | None = None

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        parts = PurePosixPath(file).parts
        if file.startswith("/") or "\\" in file or ".." in parts or not parts:
            raise ValueError(f"{file!r} must be a path inside its repo")
        return file

    @model_validator(mode="after")
    def _one_place(self) -> "WeightsSource":
        if sum(place is not None for place in (self.repo, self.url, self.page)) != 1:
            raise ValueError("give exactly one of repo, url, page")
        if self.repo and not self.revision:
            raise ValueError("a repo needs the revision that it is pinned to")
        return self

    @property
    def pinned(self) -> bool:
        """Whether it names one commit, if it could name one."""
        return self.repo is None or COMMIT.fullmatch(str(self.revision)) is not None

    @property
    def place(self) -> str:
        """The key under which its hash is kept; a page may have several files."""
        return f"{self.page}: {self.file}" if self.page else str(self)

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}: {self.file}" if self.repo else f"{self.url or self.page}"


class KeyRules(BaseModel):
    """How the network's tensors are found in a published file; applied in this order, never guessed.

    Attributes:
        at: path to the state dict inside the file, e.g. ``[state_dict, 0]``; empty if the file is one.
        drop: prefixes of tensors that do not belong to the network.
        strip: prefix that every remaining tensor carries and that is cut off.
        layout: the library whose names remain then: ``open_clip``, ``timm`` (an earlier version), or None for ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: tuple[str | int, ...] = ()
    drop: tuple[str, ...] = ()
    strip: str = ""
    layout: Literal["open_clip", "timm"] | None = None

    def changed(self, at: str | None, strip: str | None, drop: Sequence[str] | None) -> "KeyRules":
        """These rules with what a user says instead: ``at`` like "state_dict.0", a prefix, prefixes to leave out."""
        steps = self.at if at is None else tuple(int(step) if step.isdecimal() else step for step in at.split("."))
        return KeyRules(
            at=steps,
            strip=self.strip if strip is None else strip,
            drop=tuple(drop) if drop else self.drop,
            layout=self.layout,
        )

    @property
    def options(self) -> str:
        """The rules in the words of the command line."""
        parts = [*(["--at", ".".join(map(str, self.at))] if self.at else [])]
        parts += ["--strip", self.strip] if self.strip else []
        return shlex.join([*parts, *(part for prefix in self.drop for part in ("--drop", prefix))])


class TextTower(BaseModel):
    """Sizes of a CLIP's text tower, as ``architectures.clip.text_half`` takes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    vocabulary: Annotated[int, Field(ge=3)] = 49408
    context: PositiveInt = 77

    @model_validator(mode="after")
    def _divides(self) -> "TextTower":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class ZeroShot(BaseModel):
    """How a published CLIP, which has no classes, becomes a classifier: its head is made once, from text.

    Attributes:
        classes: names, in the order of the labels; empty if ``names_of`` is given.
        names_of: ``imagenet`` for the 1,000 names that open_clip lists.
        prompt: the text of a class, with ``{}`` for its name.
        more_prompts: further texts; the embeddings of all of them are averaged.
        text: the text tower, which makes the head and is not kept.
        tokenizer: the ``tokenizer.json`` that it was trained with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    names_of: Literal["imagenet"] | None = None
    prompt: str
    more_prompts: tuple[str, ...] = ()
    text: TextTower
    tokenizer: WeightsSource

    @field_validator("prompt", "more_prompts")
    @classmethod
    def _has_a_place(cls, prompt: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in (prompt,) if isinstance(prompt, str) else prompt:
            if one.count("{}") != 1:
                raise ValueError(f"{one!r} must have one {{}} for the name of a class")
        return prompt

    @model_validator(mode="after")
    def _has_names(self) -> "ZeroShot":
        if bool(self.classes) == (self.names_of is not None):
            raise ValueError("give either classes or names_of")
        return self

    @property
    def n_classes(self) -> int:
        """The number of classes that it names."""
        return len(self.classes) or 1000

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every text of a class."""
        return (self.prompt, *self.more_prompts)


class Entry(ModelSpec):
    """A ``ModelSpec`` with its story. One YAML file an entry; the file's name is the entry's name.

    ``parameters`` counts them; ``unverified`` says what about the sources nobody has checked.
    """

    description: str
    licence: str | None = None
    sources: tuple[WeightsSource, ...] = ()
    keys: KeyRules = KeyRules()
    zero_shot: ZeroShot | None = None
    parameters: Annotated[int, Field(gt=0)] | None = None
    accuracies: tuple[Accuracy, ...] = ()
    citation: str | None = None
    unverified: tuple[str, ...] = ()
    provenance: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_a_clip(self) -> "Entry":
        if self.zero_shot and self.architecture.name != "clip":
            raise ValueError(f"zero_shot is for architecture clip, not {self.architecture.name}")
        if self.zero_shot and self.zero_shot.n_classes != self.n_classes:
            raise ValueError(f"zero_shot names {self.zero_shot.n_classes} classes, n_classes is {self.n_classes}")
        return self

    @property
    def files(self) -> tuple[WeightsSource, ...]:
        """Every source that is named, a CLIP's tokenizer last."""
        return (*self.sources, self.zero_shot.tokenizer) if self.zero_shot else self.sources

    @property
    def spec(self) -> ModelSpec:
        """The part that rebuilds the model."""
        return ModelSpec.model_validate(self.model_dump(by_alias=True, include=set(ModelSpec.model_fields)))


def read(path: Path) -> Entry:
    """Read one entry file.

    Raises:
        RequestError: missing, too large, no YAML, or not an entry; every fault is listed.
    """
    return parse(read_mapping(path), str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file (safe loader, at most 1 MB) that holds a mapping, or raise RequestError."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RequestError(f"{path} holds no mapping of keys to values")
    return content


def read_yaml(path: Path) -> Any:
    """Read a YAML file (safe loader, at most 1 MB), or raise RequestError."""
    try:
        return parse_yaml(read_text(path, MAX_BYTES), str(path))
    except FileNotFoundError:
        raise RequestError(f"cannot read {path}: there is no such file") from None


def parse(content: dict[str, Any], source: str) -> Entry:
    """Check a mapping against the schema of entries; raises RequestError with every fault, named by its key."""
    try:
        return Entry.model_validate(content)
    except ValidationError as error:
        raise RequestError(f"{source} is not an entry:\n{_faults(error)}") from None
    except RequestError as error:
        raise RequestError(f"{source} is not an entry: {error}") from None


def write(entry: Entry, path: Path) -> None:
    """Write an entry as YAML, atomically."""
    content = entry.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def check_name(name: str) -> str:
    """Return ``name`` if an entry may be called so, else raise RequestError."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"name {name!r}: use lower-case letters, digits, '-', '_' and '.', at most 80, e.g. my-mnist"
        )
    return name


def _faults(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"])) or "entry"
        lines.append(f"  {key}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
