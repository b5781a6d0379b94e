"""Fewest pixels: the cost that is announced is the sum of its parts."""

from robustctl.evaluation import fewest


def test_the_cost_counts_a_gradient_as_one_and_a_query_as_half() -> None:
    descent, rounds, queries = 300, 9 * (40 + 40 / 2 + 1 / 2), 2 * 5 * 50 / 2
    tries = (1 + 9 + 2) * (40 + 1) / 2
    assert fewest.cost() == descent + rounds + queries + tries
