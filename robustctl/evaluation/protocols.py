"""Attack protocols: which attack families an evaluation runs, by norm. No torch here."""

from dataclasses import dataclass
from typing import Literal

from robustctl.threats import NORMS, Norm

DEFAULT = "standard"
"""The protocol of ``robustctl eval`` and ``robustctl.evaluate``."""
SQUARE = "square"
"""The name of the attack that follows no gradient, here and in the reference package."""
COSTS = {"apgd": 1.0, "fab": 1.5, "square": 0.5}
"""Gradient evaluations that a step takes; a forward pass counts as half of one."""


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
    attack: Literal["apgd", "fab", "square"] = "apgd"

    def __str__(self) -> str:
        """As results spell it out: ``apgd-t 9 targets 1x100``."""
        targets = f" {self.targets} targets" if self.targets else ""
        radii = " larger radii" if self.larger_radii else ""
        return f"{self.name}{targets} {self.restarts}x{self.steps}{radii}"

    def cost(self, n_classes: int) -> float:
        """Gradient evaluations that a point takes which nothing breaks, roughly."""
        starts = self.restarts * max(min(self.targets, n_classes - 1), 1)
        return starts * self.steps * COSTS[self.attack]


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
