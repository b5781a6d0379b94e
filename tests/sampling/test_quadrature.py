import itertools
import math

import numpy as np
import pytest

from robustctl.sampling import quadrature

QS = (1.0, 10.0, 100.0, 1000.0)


def langevin(u: np.ndarray) -> np.ndarray:
    """Mean of a coordinate in [-1, 1] under the density exp(u x): the integrand of path sampling on a box."""
    return np.where(u < 1e-3, u / 3, 1 / np.tanh(np.maximum(u, 1e-3)) - 1 / np.maximum(u, 1e-3))


def log_z(q: float, reach: float) -> float:
    u = q * reach
    return (u + math.log1p(-math.exp(-2 * u)) - math.log(2 * u)) / q


def error(grid: quadrature.Grid, q: float, reach: float) -> float:
    t = np.array(grid.t)
    return float(np.dot(grid.weights[q], reach * langevin(reach * t)) - log_z(q, reach))


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("reach", [0.1, 1, 3])
def test_graded_grid_integrates_the_box_integrand(q: float, reach: float) -> None:
    assert abs(error(quadrature.graded(QS), q, reach)) < 2e-4


@pytest.mark.parametrize("q", QS)
def test_weights_sum_to_one(q: float) -> None:
    assert sum(quadrature.graded(QS).weights[q]) == pytest.approx(1)
    assert sum(quadrature.uniform(q, 50).weights[q]) == pytest.approx(1)


def test_a_q_gives_the_same_value_alone_and_shared() -> None:
    assert error(quadrature.graded([10]), 10, 3) == pytest.approx(error(quadrature.graded(QS), 10, 3), abs=1e-12)


def test_points_increase_and_stay_below_the_largest_q() -> None:
    t = quadrature.graded([1, 7.5, 30]).t
    assert all(low < high for low, high in itertools.pairwise(t))
    assert t[0] > 0
    assert t[-1] < 30


def test_thesis_grid_is_biased_low_at_finite_m() -> None:
    biases = [error(quadrature.uniform(1000, m), 1000, 3) for m in (25, 100, 400)]
    assert biases[0] < biases[1] < biases[2] < 0
    assert biases[1] < -0.02


@pytest.mark.parametrize("qs", [(1.0,), (1.0, 10.0, 100.0), (3.0, 3.5, 1000.0)])
def test_importance_weights_climb_from_0_to_each_q(qs: tuple[float, ...]) -> None:
    grid = quadrature.climbing(qs, 40)
    assert grid.t[0] == 0
    assert list(grid.t) == sorted(set(grid.t))
    assert grid.t[-1] < max(qs)
    assert 38 <= len(grid.t) <= 42
    for q in qs:
        # A loss that is e everywhere has Z_q = e: the distances add up to q.
        assert sum(grid.weights[q]) == pytest.approx(1)
        assert all((weight > 0) == (t < q) for t, weight in zip(grid.t, grid.weights[q], strict=True))
        assert q == max(qs) or q in grid.t
