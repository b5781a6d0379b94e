"""The findings of a certification: the JSON schema ``robustctl.certificate/1``. No torch here."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robustctl.results.result_file import Accuracy, Bit, ResultFile, read_as, require_index
from robustctl.results.union import Figures, Points, UnionResult, summarize
from robustctl.threats import Norm, Threat

SCHEMA = "robustctl.certificate/1"
LEAST_MARGIN = 1e-4
"""A margin that is bounded by less certifies nothing: float32 logits differ by so much from the float64 ones."""

Margin = Annotated[float, Field(allow_inf_nan=False)]


class Certificate(ResultFile):
    """Bounds on the margins of one model over its threats.

    ``margin`` holds by norm, for each point, at most the least margin in the ball; a point is certified if it is
    positive. ``attacked`` holds by norm the points that no known evaluation of the same model on the same images broke.
    """

    schema_: Literal["robustctl.certificate/1"] = Field(default="robustctl.certificate/1", alias="schema")
    bound: Literal["CROWN", "CROWN and MILP"]
    eps: Annotated[dict[Norm, str], Field(min_length=1)]
    index: list[int]
    label: list[int]
    clean: list[Bit]
    margin: dict[Norm, list[Margin]]
    attacked: dict[Norm, list[Bit]]
    certified: dict[Norm, Accuracy]
    union: Accuracy
    flags: list[str]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _follows(self) -> Self:
        """Figures that do not follow from the margins were edited or damaged."""
        columns: list[Sequence[object]] = [
            self.index,
            self.label,
            self.clean,
            *self.margin.values(),
            *self.attacked.values(),
        ]
        if any(len(column) != self.data.n for column in columns) or set(self.margin) != set(self.eps):
            raise ValueError("its margins do not cover its norms and points")
        require_index(self.data, self.index)
        if any(one > right for column in self.attacked.values() for one, right in zip(column, self.clean, strict=True)):
            raise ValueError("attacked: a point withstands attacks that is wrong without one")
        here = figures(self.points, self.eps)
        if here["union"] != self.union or {norm: shares(one) for norm, one in here["norms"].items()} != self.certified:
            raise ValueError("its figures do not follow from its margins")
        return self

    @property
    def points(self) -> Points:
        """The verdicts: 1 for each point that is certified in a norm."""
        return verdicts(self.index, self.label, self.clean, self.margin)

    def broken(self, norm: Norm) -> list[int]:
        """Positions of points that are certified and were broken: one of the two is wrong."""
        pairs = zip(self.points.robust[norm], self.attacked.get(norm, self.clean), strict=True)
        return [position for position, (here, there) in enumerate(pairs) if here > there]

    def most(self, norm: Norm) -> Accuracy | None:
        """Accuracy in a norm under all known attacks, at most that; None if it was not attacked."""
        return Accuracy.of(self.attacked[norm]) if norm in self.attacked else None

    def most_union(self) -> Accuracy | None:
        """The same for the union; None unless each norm was attacked."""
        if set(self.attacked) != set(self.eps):
            return None
        return Accuracy.of([min(column) for column in zip(*self.attacked.values(), strict=True)])


def verdicts(index: list[int], label: list[int], clean: list[int], margin: dict[Norm, list[float]]) -> Points:
    """The points of a certificate with a verdict each."""
    robust = {
        norm: [int(right and one > LEAST_MARGIN) for right, one in zip(clean, column, strict=True)]
        for norm, column in margin.items()
    }
    return Points(index=index, label=label, clean=clean, robust=robust)


def figures(points: Points, eps: dict[Norm, str]) -> Figures:
    """The figures of a certificate from its verdicts."""
    return summarize(points, [Threat.of(norm, text) for norm, text in eps.items()], {}, upper_bound=False)


def shares(one: Accuracy) -> Accuracy:
    """A norm's accuracy without its radius, which a certificate keeps in ``eps``."""
    return Accuracy(acc=one.acc, n_correct=one.n_correct, ci95=one.ci95)


def unbroken(
    results: Sequence[UnionResult],
    certified: Points,
    weights_sha256: str,
    content_sha256: str | None,
    threat: Threat,
    broken: Collection[int],
) -> list[int] | None:
    """1 for each point that nothing known breaks within a radius: no result, and no solver; None if neither tried.

    Args:
        results: of any model and images; other models, other images and larger radii say nothing.
        broken: positions of points for which the solver has an image.
    """
    columns = [
        one.points.robust[threat.norm]
        for one in results
        if one.weights_sha256 == weights_sha256
        and one.data.content_sha256 == content_sha256
        and one.points.index == certified.index
        and threat.norm in one.norms
        and one.norms[threat.norm].eps <= threat.eps
    ]
    if broken:
        columns.append([int(right and i not in broken) for i, right in enumerate(certified.clean)])
    return [min(column) for column in zip(*columns, strict=True)] if columns else None


def read(path: Path) -> Certificate:
    """Read and check a certificate; raises as ``results.union.read_as`` does."""
    return read_as(Certificate, SCHEMA, path)
