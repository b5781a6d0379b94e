"""Warnings that follow from what the attacks did."""

import re

from robustctl.evaluation import reference
from robustctl.evaluation.protocols import FLAT, SQUARE
from robustctl.evaluation.store import AUDITED, Store
from robustctl.evaluation.union_request import UnionRequest
from robustctl.trusted_copy import Trusted

DLR_CLASSES = 4  # below, DLR's denominator does not exist
MASKING_SHARE = 0.002  # a black-box attack that breaks more than this beyond the gradient attacks is a sign of masking
KINDS = {
    SQUARE: ("black-box", "Square broke {} points that gradient attacks did not"),
    FLAT: ("black-box", "Square broke {} points without a gradient"),
    "fab-t": ("other-kind", "FAB-T broke {} points that projected gradient attacks did not"),
}
"""By the name of a family: the flag, and what it says, where an attack of another kind breaks clearly more."""


def kind_of(family: str) -> str:
    """A family's name without what rounds and audits add to it: ``square`` of ``square-2`` and of ``audit: square``."""
    return re.sub(r"-\d+$", "", family.removeprefix(AUDITED))


def attack_flags(store: Store, request: UnionRequest, n: int, n_classes: int, trusted: Trusted) -> list[str]:
    """Flags of an evaluation of ``n`` points: weak or incomplete attacks, proposals out of bounds, signs of masking."""
    flags = [f"fast-copy: the attacks ran on {trusted}"] if trusted.reason else []
    if repaired := store.repaired():
        flags.append(f"repaired: the verdict store was damaged in {repaired} places; what was lost was attacked again")
    if n_classes < DLR_CLASSES and request.protocol != reference.NAME:
        flags.append(f"margin: {n_classes} classes are too few for DLR; the targeted attacks maximise a margin instead")
    if request.protocol == "fast":
        flags.append("estimate: the fast protocol is weak; its accuracies are too high")
    if request.union_only:
        flags.append("union-only: the norms' own accuracies (and the average) are upper bounds")
    for threat in request.threats:
        if outside := store.outside(threat.norm):
            flags.append(f"outside: {outside} proposals in {threat} left ball or box and were not counted")
        for kind, (flag, says) in KINDS.items():
            families = [family for family in store.families() if kind_of(family) == kind]
            broken = set().union(*(store.broken(threat.norm, family) for family in families))
            if len(broken) > MASKING_SHARE * n:
                flags.append(f"{flag}: in {threat} {says.format(len(broken))} (masking?)")
    return flags
