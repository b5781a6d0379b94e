"""Compares the parts of a union result that no accuracy follows from: in an edited result they may contradict each
other. No torch here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from robustctl.results.result_file import DataInfo, Mean
from robustctl.results.rounds import Missed, RoundInfo, SecondOpinion, masking_flags, opinion_flags, sample_size
from robustctl.results.statistics import most_missed
from robustctl.threats import Norm, Threat

ROUNDING = 1e-6
"""Means are computed in float32, and may be off by this."""
CONFIDENCE = 0.95
"""The bounds of an audit hold with this probability."""
LOOKS = 50
"""An audit looks at its sample at most so often; every look spends half of the error that is left."""


class Parts(Protocol):
    """The parts of a ``UnionResult`` that are compared; its module imports this one."""

    @property
    def data(self) -> DataInfo: ...
    @property
    def points(self) -> Any: ...
    @property
    def norms(self) -> Mapping[Norm, Any]: ...
    @property
    def attack(self) -> Any: ...
    @property
    def flags(self) -> Sequence[str]: ...
    @property
    def rounds(self) -> Sequence[RoundInfo] | None: ...
    @property
    def standard_evaluations(self) -> int | None: ...
    @property
    def second_opinion(self) -> Mapping[Norm, SecondOpinion] | None: ...
    @property
    def missed(self) -> Mapping[str, Missed] | None: ...
    @property
    def external(self) -> Sequence[Any] | None: ...
    @property
    def earlier(self) -> Mapping[str, Mapping[Norm, int]] | None: ...
    @property
    def single_pass(self) -> Mapping[str, Mean] | None: ...


def contradictions(result: Parts) -> Iterator[str]:
    """A sentence for each contradiction."""
    for part in (_flags, _opinions, _rounds, _external, _earlier, _missed, _random):
        yield from part(result)


def _flags(result: Parts) -> Iterator[str]:
    """Flags that its own content calls for, with their counts, and no other flags of those kinds."""
    threats = [Threat.of(norm, one.eps_text) for norm, one in result.norms.items()]
    wanted = ["estimate:"] if result.attack.name == "fast" else []
    wanted += ["union-only:"] if result.attack.union_only else []
    wanted += opinion_flags(result.second_opinion or {}, threats) + masking_flags(result.rounds or [], threats)
    for one in wanted:
        if not any(flag.startswith(one) for flag in result.flags):
            yield f"the flag {one!r}, which follows from its own content, is missing"
    for flag in result.flags:
        kind = flag.split(":")[0]
        made = [one for one in wanted if one.startswith(f"{kind}:")]
        if kind in ("second-opinion", "masking") and not any(map(flag.startswith, made)):
            yield f"the flag {flag!r} does not follow from its own content"


def _left(result: Parts, norm: Norm) -> int:
    """How many points its attacks left in the norm, or in all if only the union was asked."""
    return sum(result.points.union() if result.attack.union_only else result.points.robust[norm])


def _opinions(result: Parts) -> Iterator[str]:
    for norm, one in (result.second_opinion or {}).items():
        if norm not in result.norms:
            yield f"its second opinion is in {norm}, in which it was not evaluated"
            continue
        left = _left(result, norm)
        # An attack from outside may come after the opinion was asked.
        most = left if result.external is None else sum(result.points.clean)
        if not sample_size(left) <= one.sample <= sample_size(most):
            yield f"its second opinion in {norm} does not add up: a sample of {one.sample} of {left} survivors"
        if one.fell > one.sample or sum(one.by.values()) != one.fell or min(one.by.values(), default=0) < 0:
            yield f"its second opinion in {norm} does not add up: {one.fell} of {one.sample} fell, to {one.by}"


def _rounds(result: Parts) -> Iterator[str]:
    """Every step begins with what the one before it left, and what the last one left are the survivors."""
    rounds = result.rounds or []
    if (result.rounds is None) != (result.standard_evaluations is None):
        yield "its rounds or the evaluations that standard would have spent are missing"
    if any(one.norm not in result.norms for one in rounds):
        yield "its rounds are in norms in which it was not evaluated"
    groups = [([norm], [one for one in rounds if one.norm == norm]) for norm in result.norms]
    if result.attack.union_only:
        groups = [(list(result.norms), list(rounds))]
    for norms, steps in groups:
        for before, step in zip([None, *steps], steps, strict=False):
            left = step.left if before is None else before.left - before.broken
            if not step.broken <= step.met <= step.left or left != step.left:
                counts = f"{step.broken} of {step.met} of {step.left} broke, after {left}"
                yield f"its round {step.name} in {step.norm} does not add up: {counts}"
        if steps:
            yield from _ends(result, norms, steps[0].left, steps[-1].left - steps[-1].broken)


def _ends(result: Parts, norms: list[Norm], first: int, last: int) -> Iterator[str]:
    """The points before and after all rounds against earlier evaluations, audits, attacks from outside and verdicts."""
    known = [n for one in (result.earlier or {}).values() for norm, n in one.items() if norm in norms]
    gone = sum(result.points.clean) - first
    if not max(known, default=0) <= gone <= sum(known):
        yield f"its rounds in {', '.join(norms)} begin with {first} points, not with all that were unbroken"
    audits, outside = result.missed or {}, [one.norms for one in result.external or ()]
    own = [one[norm].own_robust for one in outside for norm in norms if norm in one]
    fell = [one.fell for name, one in audits.items() if name == "union" or name in norms]
    left = _left(result, norms[0])
    least, most = (own[0], own[0]) if own and len(norms) == 1 else (left, sum(result.points.clean) if own else left)
    least += audits[norms[0]].fell if norms[0] in audits else 0
    if not least <= last <= most + sum(fell):
        yield f"its rounds in {', '.join(norms)} leave {last} points, and its verdicts {left}"


def _external(result: Parts) -> Iterator[str]:
    """An attack from outside breaks some of what it meets, and some of what the others left."""
    right = sum(result.points.clean)
    for norm in {norm for one in result.external or () for norm in one.norms}:
        if norm not in result.norms:
            yield f"attacks from outside are in {norm}, in which it was not evaluated"
            continue
        found = [(one.name, one.norms[norm]) for one in result.external or () if norm in one.norms]
        for name, one in found:
            if not one.beyond <= one.broken <= one.met <= right or not one.beyond <= one.own_robust <= right:
                yield f"the counts of {name} in {norm} do not add up"
        beyond = [one.beyond for _, one in found]
        survivors = sum(result.points.robust[norm])
        if any(not one.own_robust - sum(beyond) <= survivors <= one.own_robust - max(beyond) for _, one in found):
            yield f"what attacks from outside leave in {norm} is not what its verdicts say, {survivors}"


def _earlier(result: Parts) -> Iterator[str]:
    for protocol, norms in (result.earlier or {}).items():
        for norm, n in norms.items():
            broken = sum(result.points.clean) - sum(result.points.robust.get(norm, []))
            if norm not in result.norms or not 0 < n <= broken:
                yield f"earlier evaluations ({protocol}) broke {n} in {norm}, and its verdicts {broken}"


def _missed(result: Parts) -> Iterator[str]:
    """The bound of an audit follows from one of its looks."""
    for name, one in (result.missed or {}).items():
        if name != "union" and name not in result.norms:
            yield f"its audit of {name} is in no norm in which it was evaluated"
            continue
        if not one.fell <= one.drawn <= one.survivors <= sum(result.points.clean):
            yield f"its audit of {name} does not add up: {one.fell} of {one.drawn} of {one.survivors} fell"
            continue
        if one.survivors - one.fell < sum(result.points.column(name)):
            yield f"its audit of {name} leaves {one.survivors - one.fell} points, and its verdicts more"
        bounds = {most_missed(one.survivors, one.drawn, one.fell, (1 - CONFIDENCE) / 2**k) for k in range(1, LOOKS)}
        if (
            one.confidence != CONFIDENCE
            or one.missed not in bounds
            or not math.isclose(one.points, 100 * one.missed / result.data.n)
        ):
            yield f"its audit of {name} does not add up: {one.missed} missed, {one.points:g} points"


def _random(result: Parts) -> Iterator[str]:
    """Means over single passes are there for random models alone."""
    means = result.single_pass
    if (means is None) != (result.attack.passes == 1) or (means and set(means) != {"clean", *result.norms}):
        yield "its means over single passes do not fit the passes that judged each point"
    for name, one in (means or {}).items():
        if not one.ci95[0] - ROUNDING <= one.mean <= one.ci95[1] + ROUNDING:
            yield f"single_pass.{name} is {one.mean}, outside of its interval"
