"""Attack protocols: which attack families an evaluation runs, by norm. Only asking for an attack imports torch."""

from dataclasses import dataclass
from typing import Literal

from robustctl.attacks import declared, for_evaluation
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.threats import NORMS, Norm

DEFAULT = "standard"
"""The protocol of ``robustctl eval`` and ``robustctl.evaluate``."""
SQUARE = "square"
"""The name of the attack that follows no gradient, here and in the reference package."""


@dataclass(frozen=True)
class Family:
    """One attack with all its restarts and targets on one norm; a point meets them in this order until it is broken.

    Attributes:
        name: unique within a protocol and norm; part of the random seeds.
        loss: a function of ``losses``: ``ce``, ``dlr`` or ``dlr_targeted``.
        restarts: random starts, for each target where there are targets.
        targets: how many of the most likely wrong classes are aimed at; 0 is untargeted. Never more than n_classes - 1.
        steps: gradient steps (of Square: queries) of one start.
        larger_radii: start in balls of three and two times the radius (l_1).
        attack: the file in ``attacks`` that does it.
    """

    name: str
    loss: Literal["ce", "dlr", "dlr_targeted"]
    restarts: int
    targets: int
    steps: int
    larger_radii: bool
    attack: str = "apgd"

    def __str__(self) -> str:
        """As results spell it out: ``apgd-t 9 targets 1x100``."""
        targets = f" {self.targets} targets" if self.targets else ""
        radii = " larger radii" if self.larger_radii else ""
        return f"{self.name}{targets} {self.restarts}x{self.steps}{radii}"

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
    # That of the E-AT (arXiv:2105.12508) and RAMP (arXiv:2402.06827) papers.
    "standard": STANDARD,
    # The complete AutoAttack, standard version (arXiv:2003.01690, arXiv:2103.01208).
    "full": {norm: STANDARD[norm] + REST for norm in NORMS},
    # A cheap estimate; accuracies are some points too high.
    "fast": {norm: _apgd(norm, 20, 1, 3) for norm in NORMS},
}


def families(protocol: str, norm: Norm) -> tuple[Family, ...]:
    """The attack families of a protocol in one norm, each one checked against what its attack's file declares.

    Raises:
        RequestError: no such protocol, one that lacks the norm, or an attack that does not exist or cannot do it.
    """
    if protocol not in PROTOCOLS:
        raise unknown("attack", protocol, PROTOCOLS)
    found = PROTOCOLS[protocol]
    if not found.get(norm):
        raise RequestError(f"--attack {protocol} has no attacks for {norm}; it has some for {', '.join(found)}")
    for family in found[norm]:
        for_evaluation(family.attack, norm)
    return found[norm]
