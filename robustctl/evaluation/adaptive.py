"""The adaptive protocol: which points meet which attack next follows from the verdicts of all earlier steps.

The idea is Adaptive Auto Attack's (Liu et al., arXiv:2203.05154): most gradients of a fixed budget change nothing,
because they go to points that are far from the boundary. Here every survivor meets a cheap first attack and a
diverse start, and only the closest survivors meet many targets, until a stratum of them breaks nothing. The rules
are data: ``protocols.ROUNDS``.

A step is a barrier: the next one is chosen when all its verdicts are in the store. So the steps follow from the store
alone, whoever filled it, in whatever batches, and after any interruption.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from robustctl.evaluation import jobs
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.protocols import ROUNDS, STANDARD, Family, Round
from robustctl.evaluation.store import Store, Verdict
from robustctl.processes import World
from robustctl.progress import Advance, say
from robustctl.results.rounds import RoundInfo
from robustctl.threats import Norm, Threat

BOUNDARY = 2.0**-7
"""A survivor is at the boundary if its margin is above minus this share of its clean margin; bf16 errs by about that
much."""


@dataclass(frozen=True)
class Step:
    """One attack family on the points that it meets; the family's name is the step's name in the store.

    ``left`` counts the points that were unbroken when the step began.
    """

    threat: Threat
    family: Family
    positions: list[int]
    left: int
    exact: bool


@dataclass(frozen=True)
class Flat:
    """The positions at which the model has no gradient that an attack could follow; ``whole``: it cannot be
    differentiated at all, so that no attack that follows one can run."""

    positions: frozenset[int] = frozenset()
    whole: bool = False


@dataclass(frozen=True)
class Taken:
    """A step that is done: how many points it broke, and what follows from that."""

    step: Step
    broken: int
    decision: str


SLOPES = Flat()
"""There is a gradient everywhere."""

Take = Callable[[Step], dict[int, Verdict]]
"""Does a step, or reads what it found: the verdict of each of its positions."""


def play(
    protocol: str,
    threats: Sequence[Threat],
    right: Sequence[int],
    clean: dict[int, float],
    union_only: bool,
    take: Take,
    broken: Mapping[Norm, set[int]] = MappingProxyType({}),
    flat: Flat = SLOPES,
) -> list[Taken]:
    """Play all rounds: norm after norm, or each round in all norms if only the union is asked.

    Args:
        protocol: a key of ``ROUNDS``.
        right: positions that the model gets right without an attack.
        clean: margin of each image as it is, by position.
        union_only: a point that is broken in one norm leaves the others too.
        take: called with each step, once, when all steps before it are done.
        broken: by norm, points that are known to be broken before the first step.
        flat: the points that meet the attacks which need no gradient.

    Returns:
        The steps in their order.
    """
    shared = set().union(*broken.values())
    games = {
        norm: _Game(threat, right, clean, take, shared if union_only else set(broken.get(norm, ())), [], flat)
        for norm, threat in ((threat.norm, threat) for threat in threats)
    }
    rounds = [
        (threat.norm, one)
        for threat in threats
        for one in ROUNDS[protocol][threat.norm]
        if one.points == "flat" or not flat.whole
    ]
    if union_only:
        rounds.sort(key=lambda pair: ROUNDS[protocol][pair[0]].index(pair[1]))
    taken: list[Taken] = []
    for norm, one in rounds:
        games[norm].taken.clear()
        games[norm].play(one)
        taken += games[norm].taken
    return taken


@dataclass
class _Game:
    """The rounds of one norm; ``margins`` are the best that any step has reached, <= 0 at survivors."""

    threat: Threat
    right: Sequence[int]
    clean: dict[int, float]
    take: Take
    broken: set[int]
    taken: list[Taken]
    flat: Flat

    def __post_init__(self) -> None:
        self.margins = dict.fromkeys(self.right, -math.inf)

    def play(self, one: Round) -> None:
        """Take the steps of one round."""
        {"all": self._all, "strata": self._strata, "flat": self._flat}[one.points](one)

    def _all(self, one: Round) -> None:
        for number in range(one.most):
            if not (met := self._left()):
                return
            step = self._step(one, _numbered(one.families[number % len(one.families)], number), met)
            broken = self._do(step)
            again = broken > (one.share if number or one.masked is None else one.masked) * len(met)
            last = number + 1 == one.most
            share = f"{100 * broken / len(met):.0f} % broke"
            self._record(step, broken, share if last else f"{share}: {'again' if again else 'no more of these'}")
            if not again:
                return

    def _strata(self, one: Round) -> None:
        ranked = self._ranked()
        size, quiet, met = max(math.ceil(one.share * len(ranked)), one.least), 0, set[int]()
        for number, start in enumerate(range(0, len(ranked), size)):
            stratum = ranked[start : start + size]
            if one.boundary and number == 0:
                stratum += [position for position in ranked[size:] if self._at_boundary(position)]
            stratum = [position for position in stratum if position not in met]
            if not stratum:  # all of them joined the first one
                continue
            met |= set(stratum)
            steps = self._meet(one, number, stratum)
            quiet = 0 if sum(broken for _, broken in steps) else quiet + 1
            stops = quiet == one.quiet
            ranks = f"ranks {start + 1} to {min(start + size, len(ranked))} of {len(ranked)}"
            for step, broken in steps:
                ends = stops and step is steps[-1][0]
                self._record(step, broken, f"{ranks}{': ranking stops here' if ends else ''}")
            if stops:
                return

    def _flat(self, one: Round) -> None:
        for family in one.families:
            if met := [position for position in self._left() if position in self.flat.positions]:
                step = self._step(one, _numbered(family, 0), met)
                self._record(step, self._do(step), "no gradient to follow there")

    def _meet(self, one: Round, number: int, stratum: list[int]) -> list[tuple[Step, int]]:
        """The stratum meets every family in turn; the steps and how many points each broke."""
        steps = []
        for family in one.families:
            if met := [position for position in stratum if position not in self.broken]:
                step = self._step(one, _numbered(family, number), met)
                steps.append((step, self._do(step)))
        return steps

    def _at_boundary(self, position: int) -> bool:
        return self.margins[position] > -BOUNDARY * abs(self.clean[position])

    def _left(self) -> list[int]:
        return [position for position in self.right if position not in self.broken]

    def _ranked(self) -> list[int]:
        """The survivors, the closest first; equal margins by the clean ones."""
        return sorted(self._left(), key=lambda one: (-self.margins[one], -self.clean[one], one))

    def _step(self, one: Round, family: Family, met: list[int]) -> Step:
        return Step(self.threat, family, met, len(self._left()), one.exact)

    def _do(self, step: Step) -> int:
        """Take the step; how many points it broke."""
        verdicts = self.take(step)
        for position in step.positions:
            self.margins[position] = max(self.margins[position], verdicts[position].margin)
        broken = {position for position in step.positions if verdicts[position].broken}
        self.broken |= broken
        return len(broken)

    def _record(self, step: Step, broken: int, decision: str) -> None:
        self.taken.append(Taken(step, broken, decision))


def _numbered(family: Family, number: int) -> Family:
    """The family under a name of its own, so that its random starts differ from the other numbers' starts."""
    return replace(family, name=f"{family.name}-{number + 1}")


def taking(setting: Setting, world: World, advance: Advance) -> Take:
    """Plays a step: every process takes its share of the points, and all exchange their verdicts."""

    def take(step: Step) -> dict[int, Verdict]:
        job = jobs.own_job(setting, step.threat, step.family, in_float32=step.exact)
        jobs.run(job, setting, world.share(step.positions), advance)
        verdicts = world.exchange(setting.store.verdicts(step.threat.norm, step.family.name))
        broken = sum(verdicts[position].broken for position in step.positions)
        say(f"{step.threat} {step.family}: met {len(step.positions)} of {step.left} left, broke {broken}")
        return verdicts

    return take


def everybodys(broken: Mapping[Norm, set[int]], world: World) -> dict[Norm, set[int]]:
    """The positions, by norm, that some process knows to be broken; each took over its own share."""
    return {norm: set(world.exchange(dict.fromkeys(positions, True))) for norm, positions in broken.items()}


def attack(
    setting: Setting,
    protocol: str,
    threats: Sequence[Threat],
    right: Sequence[int],
    union_only: bool,
    world: World,
    advance: Advance,
    flat: Flat = SLOPES,
) -> None:
    """Play the protocol; other processes take their shares of every step and exchange verdicts after it.

    Args:
        right, flat: of all processes, not of this one.
    """

    take = taking(setting, world, advance)
    before = everybodys(setting.store.broken_earlier(threats), world)
    play(protocol, threats, right, setting.store.clean_margins(), union_only, take, before, flat)


def round_infos(
    store: Store, protocol: str, threats: Sequence[Threat], right: Sequence[int], union_only: bool, flat: Flat = SLOPES
) -> list[RoundInfo]:
    """The points that each step of a finished evaluation met and broke, its spending, and the decision that
    followed. ``flat`` is what ``attack`` was given."""
    spent = store.spent()
    taken = play(
        protocol,
        threats,
        right,
        store.clean_margins(),
        union_only,
        lambda step: store.verdicts(step.threat.norm, step.family.name),
        store.broken_earlier(threats),
        flat,
    )
    return [
        RoundInfo(
            norm=one.step.threat.norm,
            name=one.step.family.name,
            left=one.step.left,
            met=len(one.step.positions),
            broken=one.broken,
            evaluations=spent.get((one.step.threat.norm, one.step.family.name), 0),
            decision=one.decision,
        )
        for one in taken
    ]


def standard_cost(threats: Sequence[Threat], n_right: int, n_classes: int) -> int:
    """Gradient evaluations of the protocol ``standard`` at most: points that break leave it early."""
    steps = sum(family.cost(n_classes) for threat in threats for family in STANDARD[threat.norm])
    return round(steps * n_right)


def unbroken_cost(protocol: str, threats: Sequence[Threat], n_right: int, n_classes: int) -> int:
    """Gradient evaluations of a protocol with rounds, if none of ``n_right`` points breaks."""
    right = range(n_right)

    def take(step: Step) -> dict[int, Verdict]:
        return dict.fromkeys(step.positions, Verdict(False, -1.0))

    taken = play(protocol, threats, right, dict.fromkeys(right, 1.0), False, take)
    return round(sum(one.step.family.cost(n_classes) * len(one.step.positions) for one in taken))
