"""The findings of the evaluation of a suite: frozen models, the JSON schema ``robustctl.suite/1``. No torch here.

Every figure follows from the verdicts of single points, which travel with the result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from robustctl.results.result_file import Accuracy, Bit, Frozen, Mean, ResultFile, Share, read_as, require_index
from robustctl.results.statistics import wilson_mean

SCHEMA = "robustctl.suite/1"


class Member(Accuracy):
    """Accuracy under one threat, at most that: attacks show what is broken.

    ``name`` is as the suite writes it, ``threat`` with its budget. ``by`` says how many points each attack broke.
    ``evaluations`` are gradient evaluations, a forward pass counts as half of one; None for norms: see their results.
    """

    name: str
    threat: str
    unit: str
    source: str
    by: dict[str, int]
    evaluations: float | None
    seconds: float


class Corruption(Frozen):
    """Accuracy under one common corruption at each severity, and the mean."""

    name: str
    severities: list[Accuracy]
    mean: Mean


class Corruptions(Frozen):
    """All corruptions of a suite: mean accuracy, by severity too, and mean corruption errors.

    ``mce`` is the mean error, not divided by another model's, as is usual for CIFAR-10-C; ``relative_mce`` is that less
    the clean error (arXiv:1903.12261, Sec. 4.2). ``made`` says who made the images; ``sha256`` is their files' hash.
    """

    each: list[Corruption]
    mean: Mean
    by_severity: list[Share]
    mce: Share
    relative_mce: float
    made: str
    sha256: dict[str, str]


class Group(Frozen):
    """Several members: the worst of them, their mean, and the points that are right under all of them.

    A corruption counts as one member; a point is right under it if it is right at all severities.
    """

    name: str
    members: list[str]
    worst: str
    worst_acc: Share
    mean: Mean
    union: Accuracy


class LeftOut(Frozen):
    """A member that could not be evaluated, and why."""

    name: str
    reason: str


class SuitePoints(Frozen):
    """Verdicts of each image: 1 is right. ``robust`` is by member, ``corrupted`` by corruption and severity."""

    index: list[int]
    label: list[int]
    clean: list[Bit]
    robust: dict[str, list[Bit]]
    corrupted: dict[str, list[list[Bit]]]

    def of(self, name: str) -> list[int]:
        """The verdicts of a member, or of a corruption at all severities together."""
        if name in self.robust:
            return self.robust[name]
        return [min(column) for column in zip(*self.corrupted[name], strict=True)]

    def has(self, name: str) -> bool:
        """Whether a member or corruption was evaluated."""
        return name in self.robust or name in self.corrupted


class SuiteResult(ResultFile):
    """One evaluation of a suite, as written by ``--json``. ``flags`` are warnings to a reader."""

    schema_: Literal["robustctl.suite/1"] = Field(default="robustctl.suite/1", alias="schema")
    suite: str
    effort: str
    seed: int
    clean: Accuracy
    members: list[Member]
    corruptions: Corruptions | None
    groups: list[Group]
    left_out: list[LeftOut]
    flags: list[str]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    versions: dict[str, str]
    points: SuitePoints

    @model_validator(mode="after")
    def _follows(self) -> "SuiteResult":
        """Every figure must follow from the points."""
        points, n = self.points, self.data.n
        columns = [points.label, points.clean, *points.robust.values()]
        columns += [bits for rows in points.corrupted.values() for bits in rows]
        if any(len(column) != n for column in [points.index, *columns]):
            raise ValueError("its points do not cover its images")
        require_index(self.data, points.index)
        _require("clean", self.clean, Accuracy.of(points.clean))
        if sorted(member.name for member in self.members) != sorted(points.robust):
            raise ValueError("members: they are not those that have points")
        if self.corruptions is None and points.corrupted:
            raise ValueError("corruptions: they have points and no figures")
        for member in self.members:
            expected = Accuracy.of(points.of(member.name))
            _require(member.name, Accuracy(acc=member.acc, n_correct=member.n_correct, ci95=member.ci95), expected)
        if self.corruptions is not None:
            one = self.corruptions
            _require("corruptions", one, corruption_figures(points, one.made, one.sha256))
        for group in self.groups:
            if not group.members or not all(points.has(member) for member in group.members):
                raise ValueError(f"group {group.name}: its members are not those that have points")
            _require(f"group {group.name}", group, group_figures(group.name, group.members, points))
        return self


def corruption_figures(points: SuitePoints, made: str, sha256: dict[str, str]) -> Corruptions:
    """Count what the points say about corruptions; there is at least one."""
    each = [
        Corruption(name=name, severities=[Accuracy.of(bits) for bits in rows], mean=mean_of(rows))
        for name, rows in points.corrupted.items()
    ]
    everything = [bits for rows in points.corrupted.values() for bits in rows]
    mean = mean_of(everything)
    by_severity = [sum(one.severities[k].acc for one in each) / len(each) for k in range(len(each[0].severities))]
    clean = sum(points.clean) / len(points.clean)
    error = 1 - mean.mean
    return Corruptions(
        each=each,
        mean=mean,
        by_severity=by_severity,
        mce=error,
        relative_mce=error - (1 - clean),
        made=made,
        sha256=sha256,
    )


def group_figures(name: str, members: Sequence[str], points: SuitePoints) -> Group:
    """Count what the points say about a group of members that were all evaluated."""
    columns = {member: points.of(member) for member in members}
    worst = min(columns, key=lambda member: sum(columns[member]))
    return Group(
        name=name,
        members=list(members),
        worst=worst,
        worst_acc=sum(columns[worst]) / len(columns[worst]),
        mean=mean_of(list(columns.values())),
        union=Accuracy.of([min(column) for column in zip(*columns.values(), strict=True)]),
    )


def mean_of(columns: Sequence[Sequence[int]]) -> Mean:
    """Mean over columns of verdicts and its interval over images, which does not take columns as independent."""
    shares = [sum(row) / len(row) for row in zip(*columns, strict=True)]
    return Mean(mean=sum(shares) / len(shares), ci95=wilson_mean(shares))


def _require(name: str, found: BaseModel, expected: BaseModel) -> None:
    if found != expected:
        raise ValueError(f"{name}: its figures do not follow from its points")


def read(path: Path) -> SuiteResult:
    """Read and check a result file; raises as ``results.union.read_as`` does."""
    return read_as(SuiteResult, SCHEMA, path)
