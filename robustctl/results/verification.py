"""The findings of a verification: the schema ``robustctl.verification/1``. No torch here."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from robustctl.files import write_text
from robustctl.home import home
from robustctl.results.result_file import TINY, DataInfo, Frozen, Interval, Share, read_as
from robustctl.results.statistics import wilson
from robustctl.results.union import UnionResult
from robustctl.threats import Norm

Verdict = Literal["confirmed", "stronger than claimed", "cannot be checked", "not reproduced"]
VERDICTS: tuple[Verdict, ...] = ("confirmed", "stronger than claimed", "cannot be checked", "not reproduced")
"""From the best to the worst; of several findings the worst decides."""
SHOWN = 10
"""Points that a sentence names; the JSON has all of them."""


class Finding(Frozen):
    """One thing that keeps a claim from being confirmed: what it makes of the verdict, why, and at which points."""

    verdict: Verdict
    text: str
    points: tuple[int, ...] = ()

    def __str__(self) -> str:
        """A line for people."""
        if not self.points:
            return f"{self.verdict}: {self.text}"
        named = ", ".join(map(str, self.points[:SHOWN])) + (", ..." if len(self.points) > SHOWN else "")
        return f"{self.verdict}: {self.text} (points {named})"


class Checked(Frozen):
    """One figure: accuracy as claimed, as it follows from what was recomputed, and how much of it hangs on rounding.

    ``proven`` counts only those points as broken whose witness breaks them here. ``ties`` are verdicts that differ and
    whose margin is within float rounding of zero. ``witnesses`` is None for figures that need none.
    """

    claimed: Share
    proven: Share
    ties: Annotated[int, Field(ge=0)] = 0
    witnesses: int | None = None
    eps_text: str | None = None


class Sample(Frozen):
    """Survivors of one norm that were attacked anew: how many, which fell, and the interval of the share that falls."""

    survivors: Annotated[int, Field(ge=0)]
    sample: Annotated[int, Field(ge=0)]
    fell: list[int]
    ci95: Interval
    attacks: list[str]
    evaluations: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _follows(self) -> "Sample":
        fell = len(set(self.fell))
        if not len(self.fell) == fell <= self.sample <= self.survivors:
            raise ValueError("fell, sample and survivors do not fit together")
        expected = wilson(fell, self.sample) if self.sample else (0.0, 1.0)
        if any(abs(one - other) > TINY for one, other in zip(self.ci95, expected, strict=True)):
            raise ValueError("ci95 does not follow from fell and sample")
        return self


class Verification(BaseModel):
    """The verdict on one claim, and everything that it rests on.

    ``claim`` is the name of the result's file and ``claim_sha256`` says which result it is, whatever it is called.
    ``figures`` has ``clean``, each norm, ``average`` and ``union``. ``eight_bit`` has, by norm, the accuracy
    on witnesses that were rounded to images of 8-bit pixels. ``survivors`` is empty if no sample was attacked.
    ``weights_sha256`` and ``model_sha256`` are of the model that was asked.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)  # a file has the verdict too

    schema_: Literal["robustctl.verification/1"] = Field(default="robustctl.verification/1", alias="schema")
    model: str
    claim: str
    claim_sha256: str | None = None
    weights_sha256: str
    model_sha256: str
    data: DataInfo | None = None
    findings: list[Finding] = []
    figures: dict[str, Checked] = {}
    eight_bit: dict[Norm, Checked] = {}
    survivors: dict[Norm, Sample] = {}
    seed: int | None = None
    notes: list[str] = []
    seconds: float = 0.0
    date: str
    device: str
    versions: dict[str, str]

    @model_validator(mode="wrap")
    @classmethod
    def _has_its_verdict(cls, content: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A file says the verdict too; it must be the one that follows from the findings."""
        found = handler(content)
        said = content.get("verdict", found.verdict) if isinstance(content, dict) else found.verdict
        if said != found.verdict:
            raise ValueError(f"verdict: it is {said!r}, and {found.verdict!r} follows from the findings")
        return found

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings; confirmed if there is none."""
        return max((one.verdict for one in self.findings), key=VERDICTS.index, default="confirmed")

    def content(self) -> dict[str, Any]:
        """The content of the JSON file: with the verdict, which follows from the findings."""
        return {**self.model_dump(mode="json", by_alias=True), "verdict": self.verdict}

    def write(self, path: Path) -> None:
        """Write the JSON atomically; RunError when that is not possible."""
        write_text(path, json.dumps(self.content(), indent=2) + "\n")


def read(path: Path) -> Verification:
    """Read the file of a verification; RequestError if it is none."""
    return read_as(Verification, "robustctl.verification/1", path)


def claim_sha256(result: UnionResult) -> str:
    """The identity of a result's claim, whatever its model and its data are called and whoever wrote it down.

    Hashes of weights and images, points and their verdicts, radii, protocol, seed and flags.
    """
    content = {
        "weights": result.weights_sha256,
        "images": result.data.content_sha256 or result.data.index_sha256,
        "threats": {norm: one.eps_text for norm, one in result.norms.items()},
        "protocol": [result.attack.name, result.attack.protocol],
        "seed": result.attack.seed,
        "flags": result.flags,
        "points": result.points.model_dump(mode="json", exclude={"robust_8bit"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_path(claim_sha256: str, model: str) -> Path:
    """Where the newest verdict on a claim about a model (``model_sha256``) is kept on this machine."""
    return home() / "verifications" / f"{hashlib.sha256(f'{claim_sha256} {model}'.encode()).hexdigest()[:32]}.json"
