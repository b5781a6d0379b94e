"""Annealed importance sampling; as in test_estimators.py, 100 seeds are 100 images of one loss."""

import math
from typing import Any

import pytest
import torch
from scipy.special import gammaln, ive
from torch import Tensor

from robustctl.errors import RequestError
from robustctl.sampling.annealing import Trace
from robustctl.sampling.distributions import Ball, Box, Gaussian
from robustctl.sampling.estimators import Estimate, _weigh, importance_sampling
from robustctl.sampling.hmc import HMC

SEEDS, CHAINS, EPS = 100, 4, 0.3
QS = (1.0, 10.0, 100.0)


def covered(estimate: Estimate, truth: Tensor | float) -> int:
    return int(((estimate.log_z - truth).abs() <= estimate.half).sum())


def too_high(estimate: Estimate, truth: Tensor | float) -> int:
    return int((estimate.log_z > truth + math.log(20) / estimate.q).sum())


@pytest.mark.parametrize(("d", "cut"), [(1, False), (8, True), (64, False)])
def test_it_covers_the_truth_on_a_box_and_errs_downwards(forms: Any, d: int, cut: bool) -> None:
    centre, a = forms.centre(d, cut), forms.coefficients(d, 3 / EPS)
    box = Box(centre.expand(SEEDS * CHAINS, 1, 1, d), EPS)
    sampler = HMC(forms.exponential(a, centre), box, 8)
    estimates, _ = importance_sampling(sampler, QS, samples=320, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS, 3))
    for estimate in estimates:
        truth = forms.log_z_box(a, box.low[0], box.high[0], centre, estimate.q)
        assert covered(estimate, truth) >= 80
        assert too_high(estimate, truth) <= 5
        # An interval may not buy its coverage by width.
        assert estimate.half.mean() < (1.2, 0.35, 0.25)[QS.index(estimate.q)]


@pytest.mark.parametrize("d", [3, 12])
def test_it_covers_the_truth_on_a_ball(forms: Any, d: int) -> None:
    eps, centre = 0.4, forms.centre(d, False)
    a = forms.coefficients(d, 8.0)
    sampler = HMC(forms.exponential(a, centre), Ball(centre.expand(SEEDS * CHAINS, 1, 1, d), eps), 8)
    estimates, _ = importance_sampling(sampler, QS, samples=320, chains=CHAINS, noise=forms.noise(SEEDS, CHAINS, 4))
    for estimate in estimates:
        k = estimate.q * a.norm().item() * eps
        truth = (gammaln(d / 2 + 1) + d / 2 * math.log(2 / k) + math.log(ive(d / 2, k)) + k) / estimate.q
        assert covered(estimate, truth) >= 80
        assert too_high(estimate, truth) <= 5


def test_the_mean_weight_is_right_though_the_chains_hardly_move(forms: Any) -> None:
    # Ten moves of one leapfrog step each, with log losses that reach 3: no chain arrives anywhere.
    d, q, sigma = 4, 3.0, 0.2
    centre, a = forms.centre(d, False), torch.full((1, 1, d), 1.5, dtype=torch.float64)
    seeds = 400
    sampler = HMC(forms.exponential(a, centre), Gaussian(centre.expand(seeds * CHAINS, 1, 1, d), sigma), 1)
    noise = forms.noise(seeds, CHAINS, 5)
    (estimate,), trace = importance_sampling(sampler, [q], samples=10 * CHAINS, chains=CHAINS, noise=noise)
    assert trace.recorded == 10 * CHAINS
    log_truth = q**2 * a.square().sum() * sigma**2 / 2
    ratio = (q * estimate.log_z - log_truth).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=4 * ratio.std().item() / math.sqrt(seeds))
    assert ratio.std() / math.sqrt(seeds) < 0.1
    assert ((q * estimate.log_z).mean() < log_truth).item()


def test_few_carriers_mean_a_small_effective_sample(forms: Any) -> None:
    d, centre = 64, forms.centre(64, False)
    for reach, least, most in ((0.01, 0.99, 1.01), (300.0, 0.2, 0.5)):
        a = forms.coefficients(d, reach)
        sampler = HMC(forms.exponential(a, centre), Box(centre.expand(SEEDS * CHAINS, 1, 1, d), EPS), 2)
        noise = forms.noise(SEEDS, CHAINS, 6)
        (estimate,), _ = importance_sampling(sampler, [10.0], samples=80, chains=CHAINS, noise=noise)
        assert least <= (estimate.ess / 80).median().item() <= most


def test_an_image_gets_the_same_weights_whatever_shares_its_batch(forms: Any) -> None:
    together = forms.log_z_of(slice(0, 6), importance_sampling)
    assert torch.equal(together[2:4], forms.log_z_of(slice(2, 4), importance_sampling))


def test_too_few_samples_are_refused_with_the_least_number(forms: Any) -> None:
    centre = forms.centre(3, True)
    sampler = HMC(forms.exponential(centre, centre), Box(centre.expand(CHAINS, 1, 1, 3), EPS), 3)
    with pytest.raises(RequestError, match="samples 7 are too few .* at least 8"):
        importance_sampling(sampler, [10.0], samples=7, chains=CHAINS, noise=forms.noise(1, CHAINS))


def test_the_gap_is_between_the_first_two_chains() -> None:
    up = torch.tensor([1.0, 2.5, 4.0, 8.0]).reshape(1, 1, 1, 4)
    nothing = torch.zeros(1)
    trace = Trace(up=up, down=nothing, acceptance=nothing, largest=nothing, recorded=1, burnt=0)
    assert _weigh(1.0, [1.0], trace).gap.tolist() == [-1.5]
