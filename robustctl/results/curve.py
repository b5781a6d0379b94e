"""Accuracy against radius: frozen models, the JSON schema ``robustctl.curve/1``. No torch here.

A curve is one number per image: the distance of the nearest misclassified point that was found and judged. Accuracy at
a radius is the share of images whose distance is larger: at most that, since attacks show what is broken.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from robustctl.errors import RequestError
from robustctl.results.result_file import Accuracy, Frozen, ResultFile, read_as, require_index
from robustctl.results.union import UnionResult
from robustctl.threats import CurveNorm, Norm, parse_eps

SCHEMA = "robustctl.curve/1"
TOLERANCE = 1e-6
"""The referee's, relative: a point at this distance is broken at a radius that is smaller by no more."""

Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class NormCurve(Frozen):
    """One norm: a radius ``eps`` that counts as 1 on the common scale, and the ``bound`` up to which it was searched.

    ``distance`` is 0 for images that are wrong as they are, and None if nothing was found within the bound. ``by`` says
    whose witness is the nearest one, for how many points. ``decision`` are the distances that attacks found which see
    predicted classes alone, if they were asked; none is smaller than ``distance``.
    """

    eps: Annotated[float, Field(gt=0)]
    eps_text: str
    bound: Annotated[float, Field(gt=0)]
    distance: list[Distance]
    median: Distance
    area: float
    by: dict[str, int]
    evaluations: float
    decision: list[Distance] | None = None

    def robust(self, radius: float) -> list[int]:
        """1 for each image that nothing breaks within a radius, which is at most the bound."""
        return [int(one is None or one > radius * (1 + TOLERANCE)) for one in self.distance]

    def at(self, radius: float) -> Accuracy:
        """Accuracy at a radius, at most that."""
        return Accuracy.of(self.robust(radius))


def median_of(distance: Sequence[float | None]) -> float | None:
    """The median distance; None if it lies beyond the bound."""
    value = statistics.median_low([math.inf if one is None else one for one in distance])
    return None if math.isinf(value) else value


def area_of(distance: Sequence[float | None], bound: float) -> float:
    """Mean accuracy over radii from 0 to the bound: the area below the curve, in [0,1]."""
    return math.fsum(min(bound if one is None else one, bound) / bound for one in distance) / len(distance)


class CurveResult(ResultFile):
    """Curves of one model, as written by ``--json``."""

    schema_: Literal["robustctl.curve/1"] = Field(default="robustctl.curve/1", alias="schema")
    seed: int
    index: list[int]
    norms: Annotated[dict[CurveNorm, NormCurve], Field(min_length=1)]
    flags: list[str]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _follows(self) -> "CurveResult":
        require_index(self.data, self.index)
        for norm, curve in self.norms.items():
            if len(curve.distance) != self.data.n or len(self.index) != self.data.n:
                raise ValueError(f"{norm}: its distances do not cover its images")
            if any(one is not None and one > curve.bound * (1 + TOLERANCE) for one in curve.distance):
                raise ValueError(f"{norm}: a distance lies beyond the bound")
            if curve.median != median_of(curve.distance) or curve.area != area_of(curve.distance, curve.bound):
                raise ValueError(f"{norm}: median and area do not follow from the distances")
            self._require_parts(norm, curve)
        return self

    def _require_parts(self, norm: str, curve: NormCurve) -> None:
        """The parts that neither median nor area follow from."""
        try:
            eps = parse_eps(curve.eps_text)
        except RequestError as error:
            raise ValueError(f"norms.{norm}.eps_text: {error}") from None
        if not math.isclose(eps, curve.eps):
            raise ValueError(f"norms.{norm}.eps is {curve.eps}; from its eps_text follows {eps}")
        found = sum(one is not None and one > 0 for one in curve.distance)
        if min(curve.by.values(), default=0) < 0 or sum(curve.by.values()) > found:
            raise ValueError(f"norms.{norm}.by: it counts {sum(curve.by.values())} witnesses, and there are {found}")
        if curve.decision is None:
            return
        if len(curve.decision) != len(curve.distance):
            raise ValueError(f"{norm}: its distances by decision do not cover its images")
        pairs = zip(curve.distance, curve.decision, strict=True)
        if any(there is not None and (here is None or here > there * (1 + TOLERANCE)) for here, there in pairs):
            raise ValueError(f"norms.{norm}.decision: one of its distances is below the nearest one")

    @property
    def largest_scale(self) -> float:
        """Up to which multiple of the radii ``eps`` all norms were searched."""
        return min(curve.bound / curve.eps for curve in self.norms.values())

    def union(self, scale: float) -> Accuracy:
        """Accuracy in the union of all norms, each with ``scale`` times its radius."""
        columns = [curve.robust(scale * curve.eps) for curve in self.norms.values()]
        return Accuracy.of([min(column) for column in zip(*columns, strict=True)])

    def with_verdicts(self, fixed: UnionResult) -> "CurveResult":
        """The same curves, and never above a fixed-radius result of the same model on the same images.

        A point that it broke is no farther away than its radius. Results of other models or images change nothing.
        """
        same = fixed.weights_sha256 == self.weights_sha256 and fixed.data.content_sha256 == self.data.content_sha256
        if not same or fixed.points.index != self.index:
            return self
        curves = {}
        for norm, curve in self.norms.items():
            if norm not in fixed.norms or fixed.norms[norm].eps > curve.bound:
                curves[norm] = curve
                continue
            eps, right = fixed.norms[norm].eps, fixed.points.robust[norm]
            distance = [
                one if is_right or (one is not None and one <= eps) else eps
                for one, is_right in zip(curve.distance, right, strict=True)
            ]
            figures = {"median": median_of(distance), "area": area_of(distance, curve.bound)}
            curves[norm] = NormCurve(**{**curve.model_dump(), "distance": distance, **figures})
        return CurveResult(**{**self.model_dump(), "norms": curves})

    def below(self, fixed: UnionResult) -> dict[Norm, int]:
        """By norm, how many points these curves break within a fixed-radius result's radius and it does not."""
        found = {}
        for norm, accuracy in fixed.norms.items():
            if norm in self.norms and accuracy.eps <= self.norms[norm].bound:
                pairs = zip(self.norms[norm].robust(accuracy.eps), fixed.points.robust[norm], strict=True)
                found[norm] = sum(there > here for here, there in pairs)
        return {norm: n for norm, n in found.items() if n}


def competitiveness(accuracies: Sequence[float], best: Sequence[float]) -> tuple[float, float]:
    """CR-avg and CR-worst (MultiRobustBench, arXiv:2302.10980, Sec. 3): 100 times the mean and the least ratio of a
    model's accuracies to the best known ones under each attack; attacks under which nobody is right are left out."""
    ratios = [100 * one / top for one, top in zip(accuracies, best, strict=True) if top > 0]
    return (math.fsum(ratios) / len(ratios), min(ratios)) if ratios else (100.0, 100.0)


def read(path: Path) -> CurveResult:
    """Read and check a result file; raises as ``results.union.read_as`` does."""
    return read_as(CurveResult, SCHEMA, path)
