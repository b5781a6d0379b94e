"""The findings of an evaluation: frozen result models, the JSON schema ``robustctl.eval/1``, intervals, paired tests.

No torch here. Every number is computed from per-point verdicts, which travel with the result (``points``).
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from robustctl.errors import RequestError
from robustctl.results import agreement
from robustctl.results.result_file import (
    TINY,
    Accuracy,
    Bit,
    DataInfo,
    Frozen,
    Interval,
    Mean,
    ResultFile,
    Share,
    read_as,
    require_index,
)
from robustctl.results.rounds import Missed, RoundInfo, SecondOpinion
from robustctl.results.statistics import wilson_mean
from robustctl.threats import NORMS, Norm, Threat

MOST_PASSES = 101
"""Bound of passes and draws, so that a forged result cannot keep a verification busy for days."""


class NormAccuracy(Accuracy):
    """Robust accuracy in one ball. ``upper_bound``: points broken in another norm were not attacked in this one.

    ``acc_8bit`` is the accuracy when every x_adv is rounded towards x to 8-bit pixels and judged again.
    No attack looks for 8-bit images, so it is at most that. Earlier versions rounded to the nearest value and did not
    ask whether the rounded image is in the ball.
    """

    eps: Annotated[float, Field(gt=0)]
    eps_text: str
    upper_bound: bool = False
    acc_8bit: Share | None = None


class AttackInfo(Frozen):
    """How it was attacked. ``protocol`` spells out the families; two results compare only if it is equal.

    ``seconds_per_image`` is what each precision, order in memory and batch size took, if the fastest was to be taken;
    ``channels_last`` and ``batch_size`` are the order and the size that were. ``fast_copy`` says whether a faster copy
    of the model was attacked, after it was found equal, or the model itself. Results of earlier versions do not say
    these. For a random model, ``passes`` judged each point by their majority, and the attacks averaged losses and
    gradients over ``draws``.
    """

    name: str
    protocol: str
    seed: int
    precision: str = "float32"
    seconds_per_image: dict[str, float] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    channels_last: bool | None = None
    fast_copy: bool | None = None
    passes: Annotated[int, Field(ge=1, le=MOST_PASSES)] = 1
    draws: Annotated[int, Field(ge=1, le=MOST_PASSES)] = 1
    union_only: bool = False


class ExternalFigures(Frozen):
    """The effect of an attack from outside in one norm: it ``met`` the rightly classified points, and ``broken`` of
    them fell.

    ``beyond`` of them no other attack broke; ``own_robust`` points were left by all other attacks.
    """

    met: Annotated[int, Field(ge=0)]
    broken: Annotated[int, Field(ge=0)]
    beyond: Annotated[int, Field(ge=0)]
    own_robust: Annotated[int, Field(ge=0)]


class ExternalInfo(Frozen):
    """An attack from outside: its name, the first 12 digits of its SHA-256, and by norm what it did."""

    name: str
    sha256: str
    norms: dict[Norm, ExternalFigures]

    def lines(self) -> list[str]:
        """For people, a line per norm."""
        return [
            f"{self.name}, {norm}: broke {one.broken} of {one.met}; own attacks leave {one.own_robust} robust, "
            f"and it broke {one.beyond} of them: best known is {one.own_robust - one.beyond}"
            for norm, one in self.norms.items()
        ]


class Points(Frozen):
    """Per-point verdicts: ``index`` in the split, ``label``, and 1 (right or robust) or 0 by threat model.

    ``robust_8bit`` has the verdicts on x_adv rounded to 8-bit pixels; older results lack them.
    """

    index: list[int]
    label: list[int]
    clean: list[Bit]
    robust: dict[Norm, list[Bit]]
    robust_8bit: dict[Norm, list[Bit]] | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        lengths = {len(column) for column in (self.index, self.label, self.clean, *self.robust.values())}
        lengths |= {len(column) for column in (self.robust_8bit or {}).values()}
        if len(lengths) != 1:
            raise ValueError("the per-point lists differ in length")
        if len(set(self.index)) != len(self.index):
            raise ValueError("a point is counted twice")
        return self

    def shares_8bit(self) -> dict[Norm, float]:
        """The accuracy on images of 8-bit pixels, by norm."""
        return {norm: sum(column) / len(column) for norm, column in (self.robust_8bit or {}).items()}

    def union(self) -> list[int]:
        """1 if the point is robust in every norm."""
        return [min(column) for column in zip(*self.robust.values(), strict=True)]

    def column(self, name: str) -> list[int]:
        """The verdicts called ``clean``, ``union`` or a norm."""
        if name == "union":
            return self.union()
        return next(values for norm, values in [("clean", self.clean), *self.robust.items()] if norm == name)


class UnionResult(ResultFile):
    """One union evaluation, as written by ``--json``. Accuracies are in [0,1]; ``flags`` are warnings to a reader.

    ``external`` tells what attacks from outside did. ``earlier`` counts, by protocol and norm, the points that earlier
    evaluations of the same model on the same images broke: they stay broken.
    ``float_ties`` counts verdicts whose margin is so small that float rounding could turn them. ``single_pass`` is for
    random models: how often one pass is right, by ``clean`` and by norm, on the images that the attacks found.
    ``rounds`` are the steps of an adaptive protocol, and ``standard_evaluations`` is at most what the protocol
    ``standard`` would have spent. ``second_opinion`` tells by norm what attacks of other kinds broke of a sample of the
    survivors. ``missed`` bounds, by norm and for ``union``, how many breaks the rounds missed, if that was asked.
    """

    schema_: Literal["robustctl.eval/1"] = Field(default="robustctl.eval/1", alias="schema")
    clean: Accuracy
    norms: Annotated[dict[Norm, NormAccuracy], Field(min_length=1)]
    average: Share
    average_ci95: Interval
    union: Accuracy
    attack: AttackInfo
    flags: list[str]
    float_ties: Annotated[int, Field(ge=0)] = 0
    single_pass: dict[str, Mean] | None = None
    seconds: Annotated[float, Field(ge=0)]
    device: str
    versions: dict[str, str]
    points: Points
    external: list[ExternalInfo] | None = None
    earlier: dict[str, dict[Norm, int]] | None = None
    rounds: list[RoundInfo] | None = None
    standard_evaluations: int | None = None
    second_opinion: dict[Norm, SecondOpinion] | None = None
    missed: dict[str, Missed] | None = None

    @property
    def threats(self) -> tuple[str, ...]:
        """The threats as they are written everywhere, ``linf:8/255``, in the order of the file."""
        return tuple(f"{norm}:{accuracy.eps_text}" for norm, accuracy in self.norms.items())

    @model_validator(mode="after")
    def _follows_from_points(self) -> Self:
        """A result whose figures do not follow from its own verdicts was edited or damaged."""
        if list(self.points.robust) != list(self.norms) or len(self.points.index) != self.data.n:
            raise ValueError("its per-point verdicts do not cover its norms and points")
        require_index(self.data, self.points.index)
        for norm, accuracy in self.norms.items():
            self._require_eps(norm, accuracy)
        threats = [Threat.of(norm, accuracy.eps_text) for norm, accuracy in self.norms.items()]
        rounded = {norm: accuracy.acc_8bit for norm, accuracy in self.norms.items() if accuracy.acc_8bit is not None}
        figures = summarize(self.points, threats, rounded, self.attack.union_only)
        for name, here, there in _figures({**figures}, {name: getattr(self, name) for name in figures}):
            if not _same(here, there):
                raise ValueError(f"{name} is {there}; from its per-point verdicts follows {here}")
        for contradiction in agreement.contradictions(self):
            raise ValueError(contradiction)
        return self

    def origins(self) -> list[str]:
        """The others that broke points, in lines for people: earlier evaluations, outside attacks and an audit."""
        lines = [
            f"broken by earlier evaluations ({protocol}) and still broken: "
            + ", ".join(f"{n} in {norm}" for norm, n in norms.items())
            for protocol, norms in (self.earlier or {}).items()
        ]
        lines += [line for one in self.external or () for line in one.lines()]
        return lines + [f"audit of {name}: {one}" for name, one in (self.missed or {}).items()]

    def _require_eps(self, norm: Norm, accuracy: NormAccuracy) -> None:
        try:
            eps = Threat.of(norm, accuracy.eps_text).eps
        except RequestError as error:
            raise ValueError(f"norms.{norm}.eps_text: {error}") from None
        if not _same(eps, accuracy.eps):
            raise ValueError(f"norms.{norm}.eps is {accuracy.eps}; from its eps_text follows {eps}")
        if accuracy.acc_8bit is not None:
            self._require_8bit(norm, accuracy.acc_8bit)

    def _require_8bit(self, norm: Norm, share: float) -> None:
        points = self.points
        if points.robust_8bit is not None:
            column = points.robust_8bit.get(norm, [])
            if not column or not _same(share, sum(column) / len(column)):
                raise ValueError(f"norms.{norm}.acc_8bit is {share}; that does not follow from points.robust_8bit")
            ordered = zip(points.robust[norm], column, points.clean, strict=True)
            if not all(least <= one <= most for least, one, most in ordered):
                raise ValueError(f"points.robust_8bit.{norm}: verdicts contradict those on x_adv itself")
        n = len(points.clean)
        least, most = sum(points.robust[norm]) / n, sum(points.clean) / n
        if not least - TINY <= share <= most + TINY or not _same(share, round(share * n) / n):
            raise ValueError(f"norms.{norm}.acc_8bit is {share}; it is a share of {n} between {least} and {most}")

    def is_bound(self, name: str) -> bool:
        """Whether the figure called ``clean``, ``union``, ``average`` or a norm is only an upper bound."""
        bounds = [norm for norm, accuracy in self.norms.items() if accuracy.upper_bound]
        fell = [norm for norm, opinion in (self.second_opinion or {}).items() if opinion.fell]
        if name == "union":
            return bool(fell)
        return bool(bounds or fell) if name == "average" else name in bounds or name in fell

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        added = ("external", "earlier", "rounds", "standard_evaluations", "second_opinion", "missed")
        return {name: value for name, value in write(self).items() if value is not None or name not in added}


def _same(first: object, second: object) -> bool:
    if isinstance(first, float | int) and isinstance(second, float | int):
        return abs(first - second) <= TINY
    return first == second


def _figures(here: Any, there: Any, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Every figure of two nested structures of one shape, under its dotted name in the file."""
    if isinstance(here, BaseModel):
        here, there = dict(here), dict(there)
    if isinstance(here, dict):
        pairs = [(str(key), value, there[key]) for key, value in here.items()]
    elif isinstance(here, tuple):
        pairs = [(str(i), one, other) for i, (one, other) in enumerate(zip(here, there, strict=True))]
    else:
        yield name, here, there
        return
    for key, one, other in pairs:
        yield from _figures(one, other, f"{name}.{key}" if name else key)


class Figures(TypedDict):
    """The numbers of a ``UnionResult``, under its own names."""

    clean: Accuracy
    norms: dict[Norm, NormAccuracy]
    average: float
    average_ci95: Interval
    union: Accuracy


def summarize(points: Points, threats: Sequence[Threat], acc_8bit: dict[Norm, float], upper_bound: bool) -> Figures:
    """The figures of a result from its verdicts.

    Args:
        acc_8bit: by norm, the accuracy when every x_adv is rounded to 8-bit pixels, if it was measured.
        upper_bound: points broken in one norm were not attacked in the others.
    """
    norms = {
        threat.norm: NormAccuracy(
            **Accuracy.of(points.robust[threat.norm]).model_dump(),
            eps=threat.eps,
            eps_text=threat.eps_text,
            upper_bound=upper_bound,
            acc_8bit=acc_8bit.get(threat.norm),
        )
        for threat in threats
    }
    means = [sum(column) / len(column) for column in zip(*points.robust.values(), strict=True)]
    return {
        "clean": Accuracy.of(points.clean),
        "norms": norms,
        "average": math.fsum(means) / len(means),
        "average_ci95": wilson_mean(means),
        "union": Accuracy.of(points.union()),
    }


def read(path: Path) -> UnionResult:
    """Read and check a result file; raises as ``read_as`` does."""
    return read_as(UnionResult, "robustctl.eval/1", path)


def unlike_data(first: DataInfo, second: DataInfo) -> list[str]:
    """Why two results are not of the same images; empty if they are.

    Pixels and labels decide, whatever the data are called. Names decide only for older results, which have no hash.
    """
    if first.n != second.n:
        return [f"n: {first.n} against {second.n}"]
    if first.content_sha256 and second.content_sha256:
        if first.content_sha256 == second.content_sha256:
            return []
        return [f"data: pixels or labels of {first.text} differ from the ones of {second.text}"]
    reasons = []
    if (first.source, first.split) != (second.source, second.split):
        reasons.append(f"data: {first.source} {first.split} against {second.source} {second.split}")
    if first.index_sha256 != second.index_sha256:
        reasons.append("the lists of points differ")
    if first.preprocessing != second.preprocessing:
        shown = [data.preprocessing or "images as they are" for data in (first, second)]
        reasons.append(f"preprocessing: {shown[0]} against {shown[1]}")
    return reasons


def unlike(first: UnionResult, second: UnionResult) -> list[str]:
    """Why two results may not be compared point by point; empty when they may."""
    reasons = unlike_data(first.data, second.data)
    if list(first.norms) != list(second.norms) and set(first.norms) != set(second.norms):
        reasons.append(f"norms: {', '.join(first.norms)} against {', '.join(second.norms)}")
    for norm in NORMS:
        if norm in first.norms and norm in second.norms and first.norms[norm].eps != second.norms[norm].eps:
            reasons.append(f"{norm}:{first.norms[norm].eps_text} against {norm}:{second.norms[norm].eps_text}")
    if first.attack.protocol != second.attack.protocol:
        reasons.append(f"attack: {_named(first.attack)} against {_named(second.attack)}")
    elif first.attack.union_only != second.attack.union_only:
        reasons.append("attack: one was asked for its union only")
    return reasons


def _named(attack: AttackInfo) -> str:
    return f"{attack.name} [{attack.protocol}]"
