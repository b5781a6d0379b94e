"""Attack protocols: which attack families an evaluation runs, by norm. Only asking for an attack imports torch."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from robustctl.attacks import declared, for_evaluation
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.threats import NORMS, Norm

DEFAULT = "adaptive"
"""The protocol of ``robustctl eval`` and ``robustctl.evaluate``."""
SQUARE = "square"
"""The name of the attack that follows no gradient, here and in the reference package."""

LossName = Literal["ce", "dlr", "dlr_targeted", "margin", "probability_margin"]
"""Functions of ``losses``."""


@dataclass(frozen=True)
class Family:
    """One attack with all its restarts and targets on one norm; a point meets them in this order until it is broken.

    Attributes:
        name: unique within a protocol and norm; part of the random seeds.
        loss: a function of ``losses``.
        restarts: random starts, for each target if there are targets.
        targets: how many of the most likely wrong classes are aimed at; 0 is untargeted. Never more than n_classes - 1.
        steps: gradient steps (of Square: queries) of one start.
        larger_radii: start in balls of three and two times the radius (l_1).
        attack: the file in ``attacks`` that does it.
        ladder: balls to go down through, as multiples of the radius with the steps in each; empty for one of the
            other two.
        from_image: start at the image itself instead of at a random point.
    """

    name: str
    loss: LossName
    restarts: int
    targets: int
    steps: int
    larger_radii: bool
    attack: str = "apgd"
    ladder: tuple[tuple[float, int], ...] = ()
    from_image: bool = False

    def __str__(self) -> str:
        """The family as results spell it out: ``apgd-t 9 targets 1x100``."""
        targets = f" {self.targets} targets" if self.targets else ""
        radii = " larger radii" if self.larger_radii else ""
        if self.ladder:
            radii = " ladder " + "-".join(f"{factor:g}" for factor, _ in self.ladder)
        return f"{self.name}{targets} {self.restarts}x{self.steps}{radii}"

    def parameters(self) -> dict[str, object]:
        """The settings as the key of an evaluation has them; a setting that a protocol does not use is left out, as
        older keys lack it."""
        added = {"ladder": (), "from_image": False}
        return {name: value for name, value in asdict(self).items() if name not in added or value != added[name]}

    def cost(self, n_classes: int) -> float:
        """Gradient evaluations that a point takes which nothing breaks, roughly."""
        starts = self.restarts * max(min(self.targets, n_classes - 1), 1)
        return starts * self.steps * declared(self.attack).cost


def _apgd(norm: Norm, steps: int, restarts: int, targets: int) -> tuple[Family, ...]:
    larger = norm == "l1"
    return (
        Family("apgd-ce", "ce", restarts, 0, steps, larger),
        Family("apgd-t", "dlr_targeted", 1, targets, steps, larger),
    )


STANDARD: dict[Norm, tuple[Family, ...]] = {
    "linf": _apgd("linf", 100, 1, 9),
    "l2": _apgd("l2", 100, 1, 9),
    "l1": _apgd("l1", 100, 5, 5),
}
REST = (
    Family("fab-t", "ce", 1, 9, 100, False, "fab"),
    Family(SQUARE, "ce", 1, 0, 5000, False, "square"),
)

PROTOCOLS: dict[str, dict[Norm, tuple[Family, ...]]] = {
    # The protocol of the E-AT (arXiv:2105.12508) and RAMP (arXiv:2402.06827) papers.
    "standard": STANDARD,
    # The complete AutoAttack, standard version (arXiv:2003.01690, arXiv:2103.01208).
    "full": {norm: STANDARD[norm] + REST for norm in NORMS},
    # A cheap estimate; accuracies are some points too high.
    "fast": {norm: _apgd(norm, 20, 1, 3) for norm in NORMS},
}


@dataclass(frozen=True)
class Round:
    """One round of an adaptive protocol in one norm; ``evaluation.adaptive`` plays it.

    Attributes:
        name: as results and the line on stderr call it.
        families: the repetitions of a round on all survivors take them in turn; a stratum meets each of them.
        points: which survivors meet it: all; one stratum after the other, ranked by margin, the closest first; or
            those without a gradient that an attack could follow, ``checks.flat_points``.
        share: all: repeat while more than this share of them breaks. Strata: a stratum is this share of the survivors.
        most: all: repetitions at most.
        masked: all: the first repetition must break more than this share for a second one; None is ``share``.
        quiet: strata: so many in a row that break nothing end the round.
        least: strata: points that a stratum has at least; so few say little about the next ones.
        boundary: strata: all points within rounding of the boundary join the first one.
        exact: attack in float32 whatever the precision.
    """

    name: str
    families: tuple[Family, ...]
    points: Literal["all", "strata", "flat"]
    share: float
    most: int = 1
    masked: float | None = None
    quiet: int = 1
    least: int = 1
    boundary: bool = False
    exact: bool = False

    def __str__(self) -> str:
        """The protocol as results spell it out."""
        families = ", ".join(dict.fromkeys(f"{family} {family.loss}" for family in self.families))
        again = f", again while over {self.share:.0%} break, at most {self.most} times" if self.most > 1 else ""
        again += f", once unless over {self.masked:.0%} break first" if self.masked is not None else ""
        rules = {
            "all": f"all{again}",
            "strata": f"strata of {self.share:.0%}, at least {self.least}"
            f"{', and the boundary' if self.boundary else ''}, until {self.quiet} in a row break nothing",
            "flat": "points without a gradient",
        }
        return f"{self.name} [{families}; {rules[self.points]}{', in float32' if self.exact else ''}]"

    def parameters(self) -> dict[str, object]:
        """The settings as the key of an evaluation has them; ``masked`` only if it is used, as older keys lack it."""
        return {name: value for name, value in asdict(self).items() if name != "masked" or value is not None}


LADDER = ((8.0, 6), (5.0, 6), (3.0, 6), (2.0, 6), (1.5, 6), (1.0, 10))
HIGH_LADDER = ((16.0, 6), (8.0, 6), (4.0, 6), (2.0, 6), (1.5, 6), (1.0, 10))
# This one is for l_1 and networks that mask their gradients; it is as strong as a longer one (docs/benchmarks.md).
MASKED_LADDER = ((16.0, 4), (8.0, 4), (4.0, 4), (2.0, 4), (1.0, 8))
# Shorter ones for the first repetition, which most networks meet alone.
PROBE_LADDER = ((8.0, 3), (4.0, 3), (2.0, 3), (1.0, 6))
HIGH_PROBE_LADDER = ((16.0, 3), (8.0, 3), (4.0, 3), (2.0, 2), (1.0, 5))


def _first(norm: Norm) -> Family:
    if norm == "l1":  # from the image, and without larger radii, l_1 finds less: 45 against 34 robust of 200
        return Family("first", "probability_margin", 1, 0, 12, True)
    return Family("first", "probability_margin", 1, 0, 10, False, from_image=True)


REPETITIONS = 16
"""Diverse starts at most; only networks that mask their gradients come so far."""
Start = tuple[tuple[tuple[float, int], ...], LossName]


def _diverse(norm: Norm) -> tuple[Family, ...]:
    """The settings that the repetitions of the diverse round take in turn; docs/benchmarks.md compares losses and
    ladders."""
    if norm == "linf":
        losses: tuple[LossName, ...] = ("margin", "ce", "dlr", "probability_margin")
        return tuple(Family("diverse", loss, 1, 0, 20, False) for loss in losses)
    starts: list[Start]
    if norm == "l2":
        later: list[Start] = [(LADDER, "margin"), (HIGH_LADDER, "margin")]
        starts = [(PROBE_LADDER, "margin"), *later * 8]
    else:
        losses_in_turn: tuple[LossName, ...] = ("margin", "ce", "margin", "probability_margin")
        later = [(MASKED_LADDER, loss) for loss in losses_in_turn]
        starts = [(HIGH_PROBE_LADDER, "margin"), *later * 4]
    return tuple(
        Family("diverse", loss, 1, 0, sum(steps for _, steps in ladder), False, ladder=ladder)
        for ladder, loss in starts
    )


def _few(norm: Norm) -> tuple[Family, ...]:
    """The attacks of the closest strata: a few targets, and in l_1 a margin as well, which breaks other points
    (docs/benchmarks.md)."""
    l1 = norm == "l1"
    targets = Family("few-targets", "dlr_targeted", 1, 4, 25, l1)
    return (targets, Family("few-margin", "margin", 1, 0, 50, True)) if l1 else (targets,)


def _short() -> tuple[Round, ...]:
    """Short diverse starts of l_1, a round each, the closest points first.

    Networks that do not mask their gradients lose as many points to one as to a start that is twice as long, and the
    points that are lost are among the closest (docs/benchmarks.md).
    """
    steps = sum(steps for _, steps in PROBE_LADDER)
    losses: tuple[LossName, ...] = ("ce", "probability_margin")
    return tuple(
        Round(
            f"short-{number + 1}",
            (Family(f"short-{number + 1}", loss, 1, 0, steps, False, ladder=PROBE_LADDER),),
            "strata",
            share=0.34,
            least=8,
        )
        for number, loss in enumerate(losses * 3)
    )


FLAT = "flat-square"
"""The family of the points at which there is no gradient to follow. Most networks have no such points; a quantiser
without a backward pass has no others (docs/trust.md)."""


def _adaptive(norm: Norm) -> tuple[Round, ...]:
    flat = Round("flat", (replace(REST[1], name=FLAT),), "flat", share=1)
    first, diverse = Round("first", (_first(norm),), "all", share=1), _diverse(norm)
    closest = Round("closest", STANDARD[norm], "strata", share=0.01, quiet=2, least=2, boundary=True, exact=True)
    if norm != "l1":
        return (
            first,
            Round("diverse", diverse, "all", share=0.05, most=REPETITIONS),
            Round("few", _few(norm), "strata", share=0.05, least=8),
            closest,
            flat,
        )
    return (
        first,
        Round("diverse", diverse, "all", share=0.02, most=REPETITIONS, masked=0.2),
        *_short(),
        Round("few", _few(norm), "strata", share=0.05, quiet=2, least=8),
        closest,
        flat,
    )


def _other_kinds() -> tuple[Round, ...]:
    return tuple(Round(family.name, (family,), "strata", share=0.05, least=8) for family in REST)


ROUNDS: dict[str, dict[Norm, tuple[Round, ...]]] = {
    # The first round is enough on most networks in l_inf and l_2. Networks that mask their gradients fall to the
    # diverse starts. Targets find most of what is left, the closest first. The points that standard alone would break
    # are closest.
    "adaptive": {norm: _adaptive(norm) for norm in NORMS},
    # Where the last tenths matter: FAB and Square too, down the ranking.
    "adaptive+": {norm: _adaptive(norm) + _other_kinds() for norm in NORMS},
}
"""The protocols whose rounds depend on what earlier rounds found."""


def families(protocol: str, norm: Norm) -> tuple[Family, ...]:
    """The attack families of a protocol in one norm, each one checked against what its attack's file declares.

    Raises:
        RequestError: no such protocol, one that lacks the norm, or an attack that does not exist or cannot do it.
    """
    if protocol not in {**PROTOCOLS, **ROUNDS}:
        raise unknown("attack", protocol, [*PROTOCOLS, *ROUNDS])
    by_norm = PROTOCOLS.get(protocol) or {
        one: tuple(family for part in rounds for family in part.families) for one, rounds in ROUNDS[protocol].items()
    }
    if not by_norm.get(norm):
        raise RequestError(f"--attack {protocol} has no attacks for {norm}; it has some for {', '.join(by_norm)}")
    for family in by_norm[norm]:
        for_evaluation(family.attack, norm)
    return by_norm[norm]
