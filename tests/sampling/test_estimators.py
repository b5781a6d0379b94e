"""Each test runs 100 seeds as 100 images: their generators differ, their loss does not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustctl.errors import RequestError
from robustctl.sampling.distributions import Box, Gaussian
from robustctl.sampling.estimators import Estimate, monte_carlo, path_sampling, plan, thesis_path_sampling
from robustctl.sampling.hmc import HMC
from robustctl.sampling.noise import Noise

SEEDS, CHAINS, SAMPLES, EPS = 100, 4, 320, 0.3
QS = (1.0, 10.0, 100.0)


def covered(estimate: Estimate, truth: Tensor) -> int:
    return int(((estimate.log_z - truth).abs() <= estimate.half).sum())


def box_sampler(forms: Any, d: int, cut: bool, leapfrog: int = 8) -> tuple[HMC, dict[float, Tensor]]:
    """A sampler whose log losses span +-3, and log Z_q."""
    centre, a = forms.centre(d, cut), forms.coefficients(d, 3 / EPS)
    box = Box(centre.expand(SEEDS * CHAINS, 1, 1, d), EPS)
    truth = {q: forms.log_z_box(a, box.low[0], box.high[0], centre, q) for q in (*QS, 1000.0)}
    return HMC(forms.exponential(a, centre), box, leapfrog), truth


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("d", [1, 8, 64])
def test_path_sampling_covers_the_truth_on_a_box(forms: Any, d: int, cut: bool) -> None:
    sampler, truth = box_sampler(forms, d, cut)
    estimates, _ = path_sampling(sampler, QS, samples=SAMPLES, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS))
    for estimate in estimates:
        assert covered(estimate, truth[estimate.q]) >= 90
        # An interval may not buy its coverage by width: the error of the mean over seeds stays small.
        assert estimate.half.mean() < (0.85, 0.25, 0.2)[QS.index(estimate.q)]


@pytest.mark.parametrize("q", QS)
def test_path_sampling_of_one_q_covers_the_truth(forms: Any, q: float) -> None:
    sampler, truth = box_sampler(forms, 8, True)
    (estimate,), _ = path_sampling(sampler, [q], samples=SAMPLES, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS, 1))
    assert covered(estimate, truth[q]) >= 90


@pytest.mark.parametrize("d", [1, 8, 64])
def test_path_sampling_covers_the_truth_under_a_gaussian(forms: Any, d: int) -> None:
    sigma, centre, a = 0.2, forms.centre(d, False), torch.full((1, 1, d), 1.5 / math.sqrt(d), dtype=torch.float64)
    sampler = HMC(forms.exponential(a, centre), Gaussian(centre.expand(SEEDS * CHAINS, 1, 1, d), sigma), 8)
    estimates, _ = path_sampling(sampler, QS, samples=SAMPLES, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS))
    for estimate in estimates:
        assert covered(estimate, estimate.q * a.square().sum() * sigma**2 / 2) >= 90


@pytest.mark.parametrize("d", [1, 8, 64])
def test_monte_carlo_covers_the_truth_at_q_1_and_fails_at_q_100(forms: Any, d: int) -> None:
    sampler, truth = box_sampler(forms, d, True)
    box, noise = sampler.distribution, forms.noise(SEEDS, CHAINS, 2)
    values = torch.cat([sampler.target(box.draw(noise))[0].reshape(SEEDS, CHAINS) for _ in range(125)], dim=1)
    assert covered(monte_carlo(values, 1.0), truth[1.0]) >= 90
    failed = monte_carlo(values, 100.0)
    if d > 1:  # in one dimension 500 samples do find the best corner
        assert covered(failed, truth[100.0]) < 50
        assert (failed.log_z < truth[100.0]).double().mean() > 0.9
        assert failed.ess.median() < 20


@pytest.mark.parametrize("d", [8, 64])
def test_thesis_grid_is_biased_low_and_its_interval_does_not_know(forms: Any, d: int) -> None:
    sampler, truth = box_sampler(forms, d, False)
    noise = forms.noise(SEEDS, CHAINS)
    estimate, _ = thesis_path_sampling(sampler, 100.0, samples=50 * CHAINS, chains=CHAINS, noise=noise)
    assert (estimate.log_z - truth[100.0]).mean() < -0.05
    assert covered(estimate, truth[100.0]) < 60


def test_thesis_grid_agrees_at_q_1(forms: Any) -> None:
    sampler, truth = box_sampler(forms, 8, False)
    noise = forms.noise(SEEDS, CHAINS)
    estimate, trace = thesis_path_sampling(sampler, 1.0, samples=50 * CHAINS, chains=CHAINS, noise=noise)
    assert covered(estimate, truth[1.0]) >= 85
    assert trace.recorded == 50 * CHAINS * sampler.cost


def test_recorded_gradients_are_samples_times_leapfrog(forms: Any) -> None:
    sampler, _ = box_sampler(forms, 8, False)
    _, trace = path_sampling(sampler, [1.0, 10.0], samples=320, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS))
    nodes, moves = plan([1.0, 10.0], 320, CHAINS)
    assert trace.recorded == 320 * sampler.cost
    assert 2 * nodes * moves * 2 * CHAINS == 320


def test_estimates_do_not_decrease_in_q(forms: Any) -> None:
    sampler, _ = box_sampler(forms, 8, True)
    estimates, _ = path_sampling(
        sampler, (1.0, 3.0, 10.0, 30.0, 100.0), samples=640, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS)
    )
    means = [estimate.log_z.mean().item() for estimate in estimates]
    assert means == sorted(means)


def test_an_image_gets_the_same_estimate_whatever_shares_its_batch(forms: Any) -> None:
    together = forms.log_z_of(slice(0, 6), path_sampling)
    assert torch.equal(together[2:4], forms.log_z_of(slice(2, 4), path_sampling))


def test_a_thousandth_power_neither_overflows_nor_vanishes() -> None:
    values = torch.tensor([[80.0, -80.0, 3.0], [-90.0, -95.0, -100.0]])
    estimate = monte_carlo(values, 1000.0)
    assert estimate.log_z.isfinite().all()
    assert torch.allclose(estimate.log_z, torch.tensor([80.0, -90.0]), atol=2e-3)


def test_too_few_samples_or_chains_are_refused_with_the_least_number(forms: Any) -> None:
    sampler, _ = box_sampler(forms, 1, False)
    noise = forms.noise(SEEDS, CHAINS)
    with pytest.raises(RequestError, match="samples 20 are too few .* at least 48"):
        path_sampling(sampler, QS, samples=20, chains=CHAINS, noise=noise)
    with pytest.raises(RequestError, match="chains 1: at least 2"):
        path_sampling(sampler, QS, samples=20, chains=1, noise=noise)
    with pytest.raises(RequestError, match="samples 7 are too few .* at least 8"):
        thesis_path_sampling(sampler, 10.0, samples=7, chains=CHAINS, noise=noise)


def test_a_height_that_only_an_attack_finds_is_in_the_interval() -> None:
    # The log loss is the higher of two bumps: a wide low one, a narrow high one that no chain meets from below.
    d, high, q, seeds = 40, 5.0, 100.0, 10

    def two_bumps(z: Tensor) -> tuple[Tensor, Tensor]:
        wide, narrow = (z - 0.35) / 0.1, (z - 0.65) / 0.01
        low, top = -wide.square().flatten(1).sum(1) / 2, high - narrow.square().flatten(1).sum(1) / 2
        in_wide = (low > top).reshape(-1, 1, 1, 1)
        return torch.maximum(low, top), torch.where(in_wide, -wide / 0.1, -narrow / 0.01)

    log_volume = d / 2 * math.log(2 * math.pi * 0.01**2 / q) - d * math.log(2 * EPS)
    truth = torch.tensor(high + log_volume / q, dtype=torch.float64)
    x = torch.full((seeds * CHAINS, 1, 1, d), 0.5, dtype=torch.float64)
    noise = Noise([torch.Generator().manual_seed(i) for i in range(seeds)], CHAINS, x)
    sampler = HMC(two_bumps, Box(x, EPS), 8)
    summit = torch.full_like(x, 0.65)
    (blind,), _ = path_sampling(sampler, [q], samples=240, chains=CHAINS, noise=noise)
    (seeing,), _ = path_sampling(sampler, [q], samples=240, chains=CHAINS, noise=noise, summit=summit)
    assert covered(blind, truth) == 0
    assert covered(seeing, truth) >= 0.9 * seeds


def test_starting_down_from_the_corner_leaves_the_closed_form_covered(forms: Any) -> None:
    sampler, truth = box_sampler(forms, 8, True)
    box, a = sampler.distribution, forms.coefficients(8, 3 / EPS)
    corner = torch.where(a > 0, box.high, box.low)
    estimates, _ = path_sampling(
        sampler, QS, samples=SAMPLES, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS), summit=corner
    )
    for estimate in estimates:
        assert covered(estimate, truth[estimate.q]) >= 90
