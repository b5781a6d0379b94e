from typing import Any

import pytest
import torch
from torch import Tensor

from robustctl.sampling import quadrature
from robustctl.sampling.annealing import (
    ACCEPTANCE,
    ADJUSTMENT,
    MOST_ADJUSTMENTS,
    _burn_in,
    _Run,
    sweep_once,
    sweep_twice,
)
from robustctl.sampling.distributions import Box
from robustctl.sampling.hmc import HMC


def sampler_on(forms: Any, rows: int, d: int = 64, leapfrog: int = 8) -> HMC:
    centre = forms.centre(d, False)
    return HMC(forms.exponential(forms.coefficients(d, 10.0), centre), Box(centre.expand(rows, 1, 1, d), 0.3), leapfrog)


def test_tuning_brings_the_acceptance_near_its_target(forms: Any) -> None:
    trace = sweep_twice(sampler_on(forms, 200), quadrature.graded([100.0, 1000.0]), 2, forms.noise(50, 4))
    assert 0.55 < trace.acceptance.mean() < 0.9


def test_thesis_tuning_brings_the_acceptance_near_its_target(forms: Any) -> None:
    trace = sweep_once(sampler_on(forms, 200), quadrature.uniform(100.0, 30), forms.noise(50, 4))
    assert 0.45 < trace.acceptance.mean() < 0.85


def test_lag_has_opposite_signs_on_the_two_ways(forms: Any) -> None:
    grid = quadrature.graded([100.0])
    trace = sweep_twice(sampler_on(forms, 200, leapfrog=2), grid, 1, forms.noise(50, 4))
    assert trace.up[-5:].mean() < trace.down[-5:].mean()


def test_the_largest_loss_met_is_reported(forms: Any) -> None:
    trace = sweep_twice(sampler_on(forms, 40), quadrature.graded([10.0]), 2, forms.noise(10, 4))
    seen = torch.cat([trace.up.flatten(0, 1), trace.down.flatten(0, 1)]).amax(dim=(0, 2))
    assert (trace.largest >= seen).all()


def test_an_acceptance_out_of_reach_shows_and_does_not_stop_the_run(forms: Any) -> None:
    def rugged(z: Tensor) -> tuple[Tensor, Tensor]:
        # Random values with a gradient that knows nothing of them: no step is short enough.
        return 5 * (1e7 * z.flatten(1).sum(1)).sin(), torch.zeros_like(z)

    sampler = HMC(rugged, Box(forms.centre(8, False).expand(40, 1, 1, 8), 0.3), 3)
    trace = sweep_twice(sampler, quadrature.graded([100.0]), 1, forms.noise(10, 4))
    assert trace.acceptance.mean() < 0.4
    assert trace.up.isfinite().all()


def test_a_trace_counts_the_moves_of_every_chain(forms: Any) -> None:
    sampler, noise = sampler_on(forms, 40), forms.noise(10, 4)
    run = _Run(sampler, noise)
    run.discard(0.5, 2)
    values = run.record(0.5, 3)
    trace = run.trace([values], [])
    assert (trace.recorded, trace.burnt) == (3 * 4 * sampler.cost, 2 * 4 * sampler.cost)
    assert torch.equal(trace.up[0], values)


def test_a_step_changes_outside_the_band_of_acceptance_alone(forms: Any) -> None:
    run = _Run(sampler_on(forms, 20), forms.noise(5, 4))
    run.step = run.step / 4
    low, high = ACCEPTANCE
    factors = run.adjusted(torch.tensor([low - 0.01, low, (low + high) / 2, high, high + 0.01])) / run.step
    expected = [1 / ADJUSTMENT, 1.0, 1.0, 1.0, ADJUSTMENT]
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=factors.dtype), rtol=1e-6, atol=0)


def test_a_density_that_has_no_width_yet_needs_one_move() -> None:
    assert [_burn_in(low, high) for low, high in ((0.0, 1.0), (1.0, 1.0), (2.0, 1.0))] == [1, 1, 1]
    assert _burn_in(1.0, ADJUSTMENT**2) == 1
    assert _burn_in(1.0, 1.01 * ADJUSTMENT**2) == 2


def test_before_the_way_down_from_a_summit_the_step_is_tuned_at_the_end_of_the_grid(
    forms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, grid = sampler_on(forms, 8, d=4, leapfrog=1), quadrature.graded([10.0])
    visited: list[float] = []
    tuned: list[float] = []
    plain_visit, plain_tune = _Run.visit, _Run.tune

    def visit(run: _Run, t: float, burn_in: int, moves: int) -> Any:
        found = plain_visit(run, t, burn_in, moves)
        visited.append(t)
        return found

    def tune(run: _Run, t: float) -> None:
        if len(visited) == len(grid.t):  # the way up is done
            tuned.append(t)
        plain_tune(run, t)

    monkeypatch.setattr(_Run, "visit", visit)
    monkeypatch.setattr(_Run, "tune", tune)
    summit = torch.full((8, 1, 1, 4), 0.5)
    sweep_twice(sampler, grid, 1, forms.noise(2, 4), summit)
    assert visited == [*grid.t, *reversed(grid.t)]
    assert len(tuned) >= MOST_ADJUSTMENTS and set(tuned[:MOST_ADJUSTMENTS]) == {grid.t[-1]} and grid.t[-1] != grid.t[1]
