"""How many breaks the rounds of a protocol missed, at most: the bound of ``--until``.

Survivors drawn at random meet the full budget, in float32, and what falls is broken. The number of survivors that the
full budget would break is then bounded from what fell in the sample: one-sided and exact for a sample without
replacement (hypergeometric; for many survivors it is Clopper and Pearson's binomial bound). If the bound is too high,
more are drawn. Every look at the sample spends a part of the error, half of what is left, so that all bounds of one
audit hold together at the confidence that is said. When every survivor has been drawn nothing is left to be missed.

The bound says nothing of attacks beyond the full budget: a figure remains "at most".
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from robustctl.evaluation.adaptive import Step, Take, everybodys, taking
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.protocols import PROTOCOLS, SQUARE
from robustctl.evaluation.store import AUDITED
from robustctl.evaluation.union_request import UnionRequest
from robustctl.processes import World
from robustctl.progress import Advance, say
from robustctl.results.agreement import CONFIDENCE
from robustctl.results.rounds import Missed
from robustctl.results.statistics import most_missed
from robustctl.threats import Threat

BUDGET = "full"
"""The protocol whose attacks a drawn point meets."""

Fell = Callable[[Sequence[int]], set[int]]
"""Attacks positions by the full budget, and returns those that fell."""


@dataclass(frozen=True)
class Audit:
    """``drawn`` of so many ``survivors`` met the full budget, ``fell`` broke, and ``missed`` others would at most."""

    survivors: int
    drawn: int
    fell: int
    missed: int


def enough(survivors: int, fell: int, error: float, allowed: int, least: int = 0) -> int:
    """The fewest to be drawn, from ``least`` up, with which at most ``allowed`` are missed if no more fall."""
    low, high = max(least, fell), survivors
    while low < high:
        middle = (low + high) // 2
        if most_missed(survivors, middle, fell, error) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


def audit(survivors: Sequence[int], allowed: int, attack: Fell) -> Audit:
    """Draw survivors until at most ``allowed`` of the others are missed.

    Args:
        survivors: in the order in which they are drawn, which is random.
    """
    size, fell, drawn, error = len(survivors), 0, 0, 1 - CONFIDENCE
    while True:
        error /= 2
        drawn = enough(size, fell, error, allowed, drawn)
        fell = len(attack(survivors[:drawn]))
        missed = most_missed(size, drawn, fell, error)
        if missed <= allowed:
            return Audit(size, drawn, fell, missed)


def in_lot_order(positions: Iterable[int], indices: Sequence[int], seed: int) -> list[int]:
    """The positions in an order that is random, and depends on the seed and each point's index in its split alone."""

    def lot(position: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{indices[position]}/audit".encode(), digest_size=8).digest()

    return sorted(positions, key=lot)


def bound(
    setting: Setting,
    request: UnionRequest,
    right: Sequence[int],
    world: World,
    advance: Advance,
    *,
    blind: bool = False,
) -> dict[str, Missed]:
    """Audit the survivors of every norm and of the union, or of the union alone, until all bounds are low enough.

    Args:
        right: positions that the model gets right without an attack.
        blind: the model cannot be differentiated; Square is the only attack of the full budget that can run.

    Returns:
        By norm, and for ``union``, what the audit found.
    """
    assert request.until is not None
    n, indices = len(setting.data), setting.data.indices.tolist()
    before = everybodys(setting.store.broken_before_audit([threat.norm for threat in request.threats]), world)
    allowed = max(math.ceil(request.until * n / 100) - 1, 0)
    audits = {} if request.union_only else {str(threat.norm): (threat,) for threat in request.threats}
    found = {}
    for name, threats in {**audits, "union": request.threats}.items():
        norms = [threat.norm for threat in threats]
        gone: set[int] = set().union(*(before[norm] for norm in norms))
        left = in_lot_order((position for position in right if position not in gone), indices, setting.seed)
        one = audit(left, allowed, _attacker(taking(setting, world, advance), threats, name, len(left), blind))
        spent = sum(
            evaluations
            for (norm, family), evaluations in setting.store.spent().items()
            if norm in norms and family.startswith(AUDITED)
        )
        found[name] = Missed(**vars(one), points=100 * one.missed / n, confidence=CONFIDENCE, evaluations=spent)
        say(f"audit of {name}: {found[name]}")
    return found


def _attacker(take: Take, threats: Sequence[Threat], name: str, survivors: int, blind: bool) -> Fell:
    def fell(drawn: Sequence[int]) -> set[int]:
        fallen: set[int] = set()
        say(f"audit of {name}: {len(drawn)} of {survivors} survivors meet the full budget")
        for threat in threats:
            for family in PROTOCOLS[BUDGET][threat.norm]:
                if blind and family.attack != SQUARE:
                    continue
                met = sorted(set(drawn) - fallen)
                if met:
                    step = Step(threat, replace(family, name=f"{AUDITED}{family.name}"), met, survivors, exact=True)
                    fallen |= {position for position, verdict in take(step).items() if verdict.broken} & set(met)
        return fallen

    return fell
