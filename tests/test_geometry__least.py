"""The least value of a linear function over a ball cut with the box."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from robustctl import geometry


def _case(seed: int, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, d, generator=g, dtype=torch.float64)
    x[0, :2] = torch.tensor([0.0, 1.0])  # pixels at the edge of the box
    return torch.randn(6, d, generator=g, dtype=torch.float64), x


@pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
def test_in_linf_each_pixel_goes_as_far_as_ball_and_box_let_it(eps: float) -> None:
    factor, x = _case(0)
    far = torch.where(factor > 0, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)) - x
    assert torch.allclose(geometry.least(factor, x, "linf", eps), (factor * far).sum(1), rtol=1e-12)


@pytest.mark.parametrize("eps", [0.01, 0.7, 2.5, 100.0])
def test_in_l1_it_is_the_linear_program(eps: float) -> None:
    factor, x = _case(1)
    ends = [(0, float(1 - v)) for v in x[0]] + [(0, float(v)) for v in x[0]]  # delta = up - down
    for row, found in zip(factor, geometry.least(factor, x, "l1", eps), strict=True):
        program = linprog(np.concatenate([row, -row]), A_ub=np.ones((1, 24)), b_ub=[eps], bounds=ends)
        assert float(found) == pytest.approx(program.fun, rel=1e-9)


@pytest.mark.parametrize("eps", [0.01, 0.5, 1.2, 100.0])
def test_in_l2_it_is_below_the_best_of_all_multipliers_by_a_hundredth_at_most(eps: float) -> None:
    factor, x = _case(2)
    room = torch.where(factor > 0, x, 1 - x)
    best = torch.full((6,), -torch.inf, dtype=torch.float64)
    for multiplier in np.geomspace(1e-12, 1e3, 40_000):  # the dual, by trying
        step = (factor.abs() / (2 * multiplier)).minimum(room)
        best = best.maximum((multiplier * step * step - factor.abs() * step).sum(1) - multiplier * eps**2)
    found = geometry.least(factor, x, "l2", eps)
    assert (found <= best + 1e-6 * best.abs()).all()
    assert torch.allclose(found, best, rtol=1e-2)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_point_of_the_ball_and_the_box_lies_below(norm: geometry.Norm) -> None:
    factor, x = _case(3)
    at = x.view(1, 1, 3, 4).expand(2000, -1, -1, -1)
    noise = torch.randn(at.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    delta = (geometry.project(at + noise, at, norm, 0.6) - at).flatten(1)
    assert (delta @ factor.T >= geometry.least(factor, x, norm, 0.6) - 1e-9).all()


def test_a_function_without_slope_has_no_decrease() -> None:
    _, x = _case(5)
    for norm in ("linf", "l2", "l1"):
        assert geometry.least(torch.zeros(2, 12, dtype=torch.float64), x, norm, 0.5).abs().max() < 1e-300
