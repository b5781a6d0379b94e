"""The common part of all results: accuracies with their intervals, the head of a file, writing and checked reading.

No torch here.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from robustctl.errors import RequestError
from robustctl.files import write_text
from robustctl.reading import read_json
from robustctl.results.statistics import wilson

Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]
Bit = Annotated[int, Field(ge=0, le=1)]
Result = TypeVar("Result", bound=BaseModel)

TINY = 1e-9
"""By how much a figure may differ from what follows from the verdicts: floats are written and read without a loss."""


class Frozen(BaseModel):
    """Values that are checked when they are made, have no other fields, and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Accuracy(Frozen):
    """A share of right answers in [0,1], the count behind it and its 95 % Wilson interval."""

    acc: Share
    n_correct: Annotated[int, Field(ge=0)]
    ci95: Interval

    @classmethod
    def of(cls, correct: Sequence[int]) -> Self:
        """Count a non-empty list of zeros and ones."""
        return cls(acc=sum(correct) / len(correct), n_correct=sum(correct), ci95=wilson(sum(correct), len(correct)))


class Mean(Frozen):
    """A mean in [0,1] and its 95 % interval over images."""

    mean: Share
    ci95: Interval


class DataInfo(Frozen):
    """The identity of the images: ``content_sha256`` hashes their pixels and labels, ``index_sha256`` their positions
    in the split.

    Older results have no ``content_sha256``.
    ``preprocessing`` says how images of other sizes were made fit for the model; it is left out if they fitted.
    ``revision`` is the commit of the hub's data set, if ``source`` is one.
    """

    source: str
    split: str
    n: Annotated[int, Field(ge=1)]
    index_sha256: str
    content_sha256: str | None = None
    preprocessing: str | None = None
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None

    @property
    def text(self) -> str:
        """Source, split and preprocessing."""
        return ", ".join(filter(None, [f"{self.source} ({self.split})", self.preprocessing]))

    @property
    def pinned(self) -> str:
        """The source as a command takes it, with its revision if it is one of the hub's."""
        return f"{self.source}@{self.revision}" if self.revision else self.source

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


def index_sha256(split: str, index: Iterable[int]) -> str:
    """Hash of the split's name and the positions in it: which images, in which order."""
    return hashlib.sha256(split.encode() + b"\n" + array("q", index).tobytes()).hexdigest()


def require_index(data: DataInfo, index: Sequence[int]) -> None:
    """Raise ValueError if the positions are not the data's."""
    if len(index) != data.n or data.index_sha256 != index_sha256(data.split, index):
        raise ValueError("the hash of its positions (data.index_sha256) does not follow from them and its split")


class ResultFile(Frozen):
    """One result, as written by ``--json``. It begins with its schema, the model and the images."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(alias="schema")
    model: str
    weights_sha256: str
    data: DataInfo

    def write(self, path: Path | str) -> None:
        """Write the JSON atomically; raises RunError when that is not possible."""
        write_text(Path(path), json.dumps(self.model_dump(mode="json", by_alias=True)) + "\n")


def read_as(kind: type[Result], schema: str, path: Path) -> Result:
    """Read and check a result file of one schema.

    Raises:
        RequestError: no such file, not JSON, another schema, or fields that do not fit; the first faults are named.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise RequestError(f"no result file {path}") from None
    except RequestError as error:
        raise RequestError(f"{path} is not a result file: {error}") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise RequestError(f"{path}: its schema is {found!r}, not {schema!r}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'result'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise RequestError(f"{path} is not a valid result:\n  " + "\n  ".join(faults[:10])) from None
    except (LookupError, ArithmeticError) as error:  # a name or a number of points that another part lacks
        raise RequestError(
            f"{path} is not a valid result: its parts do not fit together ({type(error).__name__}: {error})"
        ) from None
