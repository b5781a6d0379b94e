import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustctl.sampling.distributions import Ball, Box, Distribution, Gaussian
from robustctl.sampling.hmc import HMC, State

EPS = 0.3
ROWS = 4000


def two_sample_distance(a: Tensor, b: Tensor) -> float:
    """Kolmogorov-Smirnov distance of two samples of equal size, times sqrt(n / 2)."""
    both = torch.cat([a, b])
    order = both.argsort()
    climb = torch.where(order < len(a), 1.0, -1.0).cumsum(0)
    return float(climb.abs().max() / len(a) * math.sqrt(len(a) / 2))


def exact_on_box(a: Tensor, box: Box, t: float, rows: int) -> Tensor:
    """Samples of exp(t a . z) on the box by inverting each coordinate's distribution function."""
    u = torch.rand(rows, *a.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    width = box.high[:1] - box.low[:1]
    rate = t * a * width
    return box.low[:1] + width * torch.log1p(u * torch.expm1(rate)) / rate


@pytest.mark.parametrize("t", [0.5, 10.0])
def test_exact_samples_stay_exact_on_a_cut_box(forms: Any, t: float) -> None:
    centre, a = forms.centre(6, True), forms.coefficients(6, 3 / EPS)
    box = Box(centre.expand(ROWS, 1, 1, 6), EPS)
    sampler = HMC(forms.exponential(a, centre), box, leapfrog=5)
    before = exact_on_box(a, box, t, ROWS)
    state = State(before, *sampler.target(before))
    noise = forms.noise(ROWS // 8, 8)
    way = sampler.widths(t * a.abs().expand_as(before)) * 0.4
    for _ in range(12):
        state, chance = sampler.move(state, t, way, noise)
    assert 0.3 < chance.mean() < 0.98
    fresh = exact_on_box(a, box, t, 2 * ROWS)[ROWS:]
    for pixel in range(6):
        assert two_sample_distance(state.z[..., pixel].flatten(), fresh[..., pixel].flatten()) < 1.95
    assert torch.allclose(state.z.mean(0), fresh.mean(0), atol=4 * EPS / math.sqrt(ROWS))


def test_long_runs_reach_the_truncated_exponential_moments(forms: Any) -> None:
    centre, a, t = forms.centre(6, True), forms.coefficients(6, 3 / EPS), 10.0
    box = Box(centre.expand(ROWS, 1, 1, 6), EPS)
    sampler = HMC(forms.exponential(a, centre), box, leapfrog=5)
    noise = forms.noise(ROWS // 8, 8)
    state = sampler.start(noise)
    way = sampler.widths(t * a.abs().expand_as(state.z)) * 0.4
    for _ in range(60):
        state, _ = sampler.move(state, t, way, noise)
    rate, half, middle = t * a, box.half[0], (box.low[0] + box.high[0]) / 2
    mean = middle + half / torch.tanh(half * rate) - 1 / rate
    variance = 1 / rate**2 - (half / torch.sinh(half * rate)) ** 2
    assert torch.allclose(state.z.mean(0), mean, atol=4 * EPS / math.sqrt(ROWS))
    assert torch.allclose(state.z.var(0), variance, rtol=0.15)


def test_gaussian_chains_reach_the_shifted_normal(forms: Any) -> None:
    centre, a, t = forms.centre(5, False), forms.coefficients(5, 2.0), 4.0
    sampler = HMC(forms.exponential(a, centre), Gaussian(centre.expand(ROWS, 1, 1, 5), 0.3), leapfrog=5)
    noise = forms.noise(ROWS // 8, 8)
    state = sampler.start(noise)
    for _ in range(30):
        state, _ = sampler.move(state, t, torch.tensor(0.2 * 0.3), noise)
    assert torch.allclose(state.z.mean(0), centre + t * a * 0.3**2, atol=4 * 0.3 / math.sqrt(ROWS))
    assert torch.allclose(state.z.std(0), torch.tensor(0.3, dtype=torch.float64), rtol=0.1)


def test_ball_chains_have_the_law_of_a_linear_tilt(forms: Any) -> None:
    # exp(t a z) on the unit interval seen as a ball with d = 1, and cut by the box at 0.
    centre = torch.full((1, 1, 1), 0.1, dtype=torch.float64)
    a, t = torch.full((1, 1, 1), -10.0, dtype=torch.float64), 1.0
    sampler = HMC(forms.exponential(a, centre), Ball(centre.expand(ROWS, 1, 1, 1), EPS), leapfrog=5)
    noise = forms.noise(ROWS // 8, 8)
    state = sampler.start(noise)
    for _ in range(40):
        state, _ = sampler.move(state, t, torch.tensor(0.1 * EPS), noise)
    cut = Box(torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64), 0.2)  # the same interval [0, 0.4]
    exact = exact_on_box(a, cut, t, ROWS)
    assert two_sample_distance(state.z.flatten(), exact.flatten()) < 1.95


@pytest.mark.parametrize("make", [Box, Ball, Gaussian])
def test_trajectories_are_reversible(forms: Any, make: type[Distribution]) -> None:
    x = torch.rand(64, 1, 4, 4, dtype=torch.float64)
    a = torch.randn(1, 4, 4, dtype=torch.float64) * 5
    sampler = HMC(forms.exponential(a, torch.zeros(1, 4, 4)), make(x, EPS), leapfrog=7)
    start = sampler.start(forms.noise(64, 1))
    p = torch.randn_like(start.z)
    way = torch.full((64, 1, 1, 1), 0.03, dtype=torch.float64)
    end, momentum, inside = sampler.fly(start, p, 3.0, way)
    back, again, _ = sampler.fly(end, -momentum, 3.0, way)
    assert inside.any()
    assert torch.allclose(back.z[inside], start.z[inside], atol=1e-10)
    assert torch.allclose(again[inside], -p[inside], atol=1e-10)


def test_one_gradient_a_leapfrog_step(forms: Any) -> None:
    calls = 0
    inner = forms.exponential(forms.coefficients(3, 1.0), forms.centre(3, False))

    def counted(z: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += len(z)
        return inner(z)

    sampler = HMC(counted, Box(forms.centre(3, False).expand(4, 1, 1, 3), EPS), leapfrog=6)
    noise = forms.noise(2, 2)
    state = sampler.start(noise)
    for _ in range(5):
        state, _ = sampler.move(state, 1.0, torch.tensor(0.01), noise)
    assert calls == 4 * (1 + 5 * 6)


def test_a_loss_that_is_not_a_number_is_never_accepted(forms: Any) -> None:
    def broken(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(z),), torch.nan, dtype=z.dtype), torch.zeros_like(z)

    box = Box(forms.centre(3, False).expand(4, 1, 1, 3), EPS)
    good = HMC(forms.exponential(forms.coefficients(3, 1.0), forms.centre(3, False)), box, leapfrog=2)
    noise = forms.noise(2, 2)
    state = good.start(noise)
    after, chance = HMC(broken, box, leapfrog=2).move(state, 1.0, torch.tensor(0.01), noise)
    assert torch.equal(after.z, state.z)
    assert (chance == 0).all()


def test_a_flight_s_length_varies_by_a_quarter_to_either_side(forms: Any) -> None:
    centre = forms.centre(6, True)
    box = Box(centre.expand(400, 1, 1, 6), EPS)
    sampler = HMC(forms.exponential(forms.coefficients(6, 1.0), centre), box, leapfrog=1)
    flown: list[Tensor] = []

    def fly(state: State, p: Tensor, t: float, way: Tensor) -> tuple[State, Tensor, Tensor]:
        flown.append(way)
        return HMC.fly(sampler, state, p, t, way)

    sampler.fly = fly  # type: ignore[method-assign]
    noise = forms.noise(100, 4)
    sampler.move(sampler.start(noise), 1.0, torch.full_like(box.low.expand(400, 1, 1, 6), 0.01), noise)
    way = flown[0] / 0.01
    assert torch.equal(way, way[:, :1, :1, :1].expand_as(way)), "one length for all pixels of a chain"
    assert 0.75 <= way.min() < 0.77 and 1.23 < way.max() <= 1.25
    assert abs(way.mean() - 1) < 0.02
