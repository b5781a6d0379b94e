"""Estimates of Z_q = E_mu[loss^q]^(1/q) for each image, in log space throughout (Rice, thesis 2023, section 3.1.3).

All give log Z_q with a 95 % interval: Monte Carlo from independent samples, path sampling and annealed importance
sampling from chains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustctl.errors import RequestError
from robustctl.results.statistics import Z95, student95
from robustctl.sampling import quadrature
from robustctl.sampling.annealing import Sampler, Trace, sweep_once, sweep_twice, sweep_weighing
from robustctl.sampling.noise import Noise

FLAT = 1e-12  # a squared error of log Z that asks for no more samples

GridName = Literal["graded", "thesis"]


@dataclass(frozen=True)
class Estimate:
    """One q of n images.

    Attributes:
        q: the order, >= 1.
        log_z: log Z_q, (n,).
        half: half the width of its 95 % interval, (n,).
        ess: how many independent samples would be as good, (n,).
        gap: difference of log Z_q between two chains, (n,); zero for Monte Carlo.
        lag: half the difference between the way down and the way up, (n,); how far importance sampling's mean of a few
            weights falls short; zero for Monte Carlo and the thesis's grid.
    """

    q: float
    log_z: Tensor
    half: Tensor
    ess: Tensor
    gap: Tensor
    lag: Tensor


def monte_carlo(values: Tensor, q: float) -> Estimate:
    """log mean loss^q / q from independent samples.

    The interval is the delta method's. It is honest while many samples carry the mean (``ess`` well above 20, say): at
    large q a few of the largest decide, both the estimate and its interval are then far too small.

    Args:
        values: log loss (n, m) of m >= 2 samples of mu.
    """
    m = values.shape[1]
    log_sum = torch.logsumexp(q * values, dim=1)
    share = (q * values - log_sum[:, None]).exp()  # of each sample in the sum
    ess = 1 / share.square().sum(1)
    half = Z95 * (m * share).std(1) / math.sqrt(m) / q
    zero = torch.zeros_like(half)
    return Estimate(q, (log_sum - math.log(m)) / q, half, ess, zero, zero)


def path_sampling(
    sampler: Sampler, qs: Sequence[float], *, samples: int, chains: int, noise: Noise, summit: Tensor | None = None
) -> tuple[list[Estimate], Trace]:
    """log Z_q = (1/q) integral of E_t[log loss] over a graded grid, one annealing run for all q.

    Args:
        samples: recorded moves an image, over all chains and points; rounded down to what the grid divides.
        chains: independent chains per image, >= 2: the interval comes from their differences.
        noise: for ``chains`` rows per image.
        summit: positions (r, c, h, w) of the highest known loss, from an attack; the way down starts there.

    Raises:
        RequestError: fewer than 2 chains, or too few samples for the grid.
    """
    nodes, moves = plan(qs, samples, chains)
    grid = quadrature.graded(qs, nodes)
    trace = sweep_twice(sampler, grid, moves, noise, summit)
    return [_estimate(q, grid.weights[q], trace) for q in qs], trace


def thesis_path_sampling(
    sampler: Sampler, q: float, *, samples: int, chains: int, noise: Noise
) -> tuple[Estimate, Trace]:
    """The thesis's estimator: even grid of samples / chains points from 0 to q, one move each, geometric mean.

    Its interval knows nothing of the bias of its grid and of its lag. Raises as ``path_sampling`` does.
    """
    points, _ = plan([q], samples, chains, "thesis")
    grid = quadrature.uniform(q, points)
    trace = sweep_once(sampler, grid, noise)
    return _estimate(q, grid.weights[q], trace), trace


def importance_sampling(
    sampler: Sampler, qs: Sequence[float], *, samples: int, chains: int, noise: Noise
) -> tuple[list[Estimate], Trace]:
    """log of the mean weight of chains that climb from t = 0, over q: annealed importance sampling (Neal 2001).

    The mean weight is an unbiased estimate of Z_q^q. So the estimate is below log Z_q on average (Jensen). In at most 5
    of 100 runs it lies more than log(20) / q above (Markov's inequality), however badly the chains mix.

    The interval is Student's of the chains' log weights, widened by how far the mean of a few falls short. ``ess`` is
    the number of chains that carry the mean weight, times the moves of a chain: it is small if one chain outweighs the
    others.

    Args:
        samples: moves an image, over all chains; about, see ``quadrature.climbing``.
        chains: independent chains per image, >= 2.
        noise: for ``chains`` rows per image.

    Raises:
        RequestError: fewer than 2 chains, or fewer than 2 moves a chain.
    """
    steps, _ = plan(qs, samples, chains, "thesis")
    grid = quadrature.climbing(qs, steps)
    trace = sweep_weighing(sampler, grid, quadrature.graded(qs).t, noise)
    return [_weigh(q, grid.weights[q], trace) for q in qs], trace


def plan(qs: Sequence[float], samples: int, chains: int, grid: GridName = "graded") -> tuple[int, int]:
    """How to spend ``samples``: nodes a decade and recorded moves a node, on both ways of all chains.

    For the thesis's grid, and for importance sampling: its points, and one move each.

    Raises:
        RequestError: fewer than 2 chains, or the coarsest grid needs more samples.
    """
    if chains < 2:
        raise RequestError(f"chains {chains}: at least 2, the interval comes from their differences")
    least = 2 * chains
    if grid == "graded":
        budget = samples // (2 * chains)
        for nodes in range(quadrature.NODES_PER_DECADE, quadrature.FEWEST_NODES - 1, -1):
            points = len(quadrature.graded(qs, nodes).t)
            if budget >= 2 * points or (nodes == quadrature.FEWEST_NODES and budget >= points):
                return nodes, budget // points
        least = 2 * chains * points
    elif samples >= least:
        return samples // chains, 1
    raise RequestError(f"samples {samples} are too few for q up to {max(qs):g} and {chains} chains; at least {least}")


def _estimate(q: float, weights: Sequence[float], trace: Trace) -> Estimate:
    w = trace.up.new_tensor(weights)
    ways = [torch.einsum("k,kmnc->nc", w, way) / way.shape[1] for way in (trace.up, trace.down) if len(way)]
    per_chain = sum(ways[1:], ways[0]) / len(ways)
    lag = ((ways[-1] - ways[0]) / 2).mean(1)
    # The mean of both ways is free of the lag to first order only: half their difference counts as a second error.
    half = (_student(per_chain).square() + lag.square()).sqrt()
    gap = per_chain[:, 0] - per_chain[:, 1]
    seen = per_chain.var(1) / per_chain.shape[1] + lag.square()
    return Estimate(q, per_chain.mean(1), half, _ess(w, trace, seen), gap, lag)


def _weigh(q: float, weights: Sequence[float], trace: Trace) -> Estimate:
    """In float64: a log weight is q times what is kept of it."""
    values = trace.up[:, 0].double()
    per_chain = torch.einsum("k,knc->nc", values.new_tensor(weights), values)  # log weight / q
    chains = per_chain.shape[1]
    log_sum = torch.logsumexp(q * per_chain, dim=1)
    share = (q * per_chain - log_sum[:, None]).exp()
    gap = per_chain[:, 0] - per_chain[:, 1]
    estimate = (log_sum - math.log(chains)) / q
    carriers = 1 / share.square().sum(1)
    # The mean weight errs as the log weights of those chains do that carry it.
    half = _student(per_chain) * (chains / carriers).sqrt()
    # So far the mean of a few log-normal weights falls short of its expectation. Where the spread is wide, weights are
    # not log-normal and this says too much.
    lag = torch.minimum(q * per_chain.var(1) / 2, half)
    return Estimate(q, estimate, (half.square() + lag.square()).sqrt(), len(weights) * carriers, gap, lag)


def _student(per_chain: Tensor) -> Tensor:
    """Half-width of the 95 % interval of the mean over chains (n, c) -> (n,)."""
    chains = per_chain.shape[1]
    return student95(chains - 1) * per_chain.std(1) / math.sqrt(chains)


def _ess(w: Tensor, trace: Trace, seen: Tensor) -> Tensor:
    """Samples, times the variance that independent ones would have, over the squared error that was seen (n,)."""
    values = trace.up if not len(trace.down) else torch.cat([trace.up, trace.down], dim=1)
    samples = values.shape[1] * values.shape[3]
    spread = values.transpose(1, 2).flatten(2).var(2)  # (k, n), over moves and chains
    independent = torch.einsum("k,kn->n", w.square(), spread) / samples
    all_of_them = len(w) * samples
    # Where the loss is flat, nothing but rounding is left of both.
    return torch.where(seen > FLAT, all_of_them * independent / seen.clamp(min=FLAT), all_of_them)
