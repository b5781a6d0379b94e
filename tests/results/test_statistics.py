"""Intervals and tests against their tables."""

import math

import pytest
from scipy.stats import ttest_ind, ttest_rel

from robustctl.results import statistics


@pytest.mark.parametrize(
    ("degrees", "point"), [(1, 12.706), (3, 3.182), (15, 2.131), (16, 2.120), (30, 2.042), (120, 1.980)]
)
def test_students_t_is_that_of_the_tables(degrees: int, point: float) -> None:
    assert statistics.student95(degrees) == pytest.approx(point, abs=6e-4)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (20, 20), (40, 700)])
def test_mcnemar_is_the_exact_binomial_sum(first: int, second: int) -> None:
    found = statistics.mcnemar([1] * first + [0] * second, [0] * first + [1] * second)
    n = first + second
    exact = min(1.0, 2 * sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n)
    assert found.p_value == pytest.approx(exact, rel=1e-9)


def test_paired_means_and_welch_are_scipys_tests() -> None:
    first, second = [0.1, 0.5, 0.3, 0.9, 0.2], [0.2, 0.4, 0.6, 1.3, 0.25]
    assert statistics.paired_means(first, second) == pytest.approx(float(ttest_rel(first, second).pvalue))
    assert statistics.welch(first, second[:4]) == pytest.approx(
        float(ttest_ind(first, second[:4], equal_var=False).pvalue)
    )
    assert statistics.paired_means([0.0, 0.0], [1.0, 1.0]) == 0.0
    assert statistics.paired_means([0.0], [1.0]) == statistics.paired_means([0.5, 1.0], [0.5, 1.0]) == 1.0
