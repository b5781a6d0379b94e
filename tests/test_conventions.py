import math
from itertools import permutations

import pytest

from robustctl.conventions import CONVENTIONS
from robustctl.threats import NORMS, Threat, hull_l2_radius

EXPONENT = {"linf": 0.0, "l2": 0.5, "l1": 1.0}


def _contains(outer: Threat, inner: Threat, dimension: int) -> bool:
    """Whether one ball lies in the other: |d|_outer <= d^max(0, 1/p_outer - 1/p_inner) |d|_inner, with equality."""
    growth = dimension ** max(0.0, EXPONENT[outer.norm] - EXPONENT[inner.norm])
    return inner.eps * growth <= outer.eps


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_union_is_a_contest_because_no_ball_contains_another(name: str) -> None:
    convention = CONVENTIONS[name]
    pairs = permutations(convention.threats, 2)
    assert not [pair for pair in pairs if _contains(*pair, math.prod(convention.input_shape))]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_three_norms_stand_in_the_order_of_tables(name: str) -> None:
    assert tuple(threat.norm for threat in CONVENTIONS[name].threats) == NORMS


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_the_assumption_of_e_at_holds_where_it_is_said_to(name: str) -> None:
    linf, l2, l1 = (threat.eps for threat in CONVENTIONS[name].threats)
    assert hull_l2_radius(linf, l1, math.prod(CONVENTIONS[name].input_shape)) > l2
