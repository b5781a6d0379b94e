"""Runs the chains of an intermediate-q evaluation, longer if few effective samples carry an image's value."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from robustctl import seeds
from robustctl.intermediate.measure import Chains, carried_by_few
from robustctl.intermediate.request import GROWTH, IntermediateRequest
from robustctl.oracle import Oracle
from robustctl.sampling.annealing import Trace
from robustctl.sampling.build import make_sampler
from robustctl.sampling.estimators import Estimate, importance_sampling, path_sampling, thesis_path_sampling
from robustctl.sampling.noise import Noise
from robustctl.sampling.spatial import STEPS
from robustctl.seeds import Purpose

Kind = Literal["path", "ais"]
Images = tuple[Tensor, Tensor, list[int]]
"""Images (n, c, h, w), labels (n,), and the indices that their random streams depend on."""


def run_chains(
    oracle: Oracle, images: Images, request: IntermediateRequest, kind: Kind, summit: Tensor | None
) -> list[Chains]:
    """Run the chains of every image; if few effective samples carry a value, run them again and longer.

    Each run has ``GROWTH`` times the samples of the one before, as long as all together stay in ``most_samples``. It
    starts anew and its estimates replace the earlier ones, so they do not depend on what asked for it.

    Args:
        summit: (n, c, h, w), the points from which path sampling climbs down; None: the points at which it arrived.
    """
    x, y, indices = images
    samples = spent = request.samples
    found = _run(oracle, images, request, kind, summit, samples, 0)
    repeat, adaptive = 0, request.grid == "graded" or kind == "ais"
    while adaptive and spent + GROWTH * samples <= request.most_samples:
        rows = [row for row, chains in enumerate(found) if _too_few(chains, kind)]
        if not rows:
            break
        samples, repeat = GROWTH * samples, repeat + 1
        spent += samples
        part = x[rows], y[rows], [indices[row] for row in rows]
        longer = _run(oracle, part, request, kind, None if summit is None else summit[rows], samples, repeat)
        for row, chains in zip(rows, longer, strict=True):
            found[row] = replace(
                chains,
                largest=max(found[row].largest, chains.largest),
                recorded=found[row].recorded + chains.recorded,
                burnt=found[row].burnt + chains.burnt,
            )
    return found


def _too_few(chains: Chains, kind: Kind) -> bool:
    return any(carried_by_few(kind, ess, chains.samples) for _, _, ess, _, _ in chains.numbers)


def _run(
    oracle: Oracle,
    images: Images,
    request: IntermediateRequest,
    kind: Kind,
    summit: Tensor | None,
    samples: int,
    repeat: int,
) -> list[Chains]:
    x, y, indices = images
    many = request.chains
    x, y = x.repeat_interleave(many, 0), y.repeat_interleave(many)
    sampler = make_sampler(request.perturbation, oracle, x, y, request.leapfrog)
    purpose = Purpose.PATH if kind == "path" else Purpose.IMPORTANCE
    noise = Noise(seeds.generators(request.seed, purpose, indices, repeat), many, x)
    if kind == "ais":
        estimates, trace = importance_sampling(sampler, request.qs, samples=samples, chains=many, noise=noise)
        return _chains(estimates, [trace], len(indices), request)
    if request.grid == "thesis":
        pairs = [thesis_path_sampling(sampler, q, samples=samples, chains=many, noise=noise) for q in request.qs]
        return _chains([estimate for estimate, _ in pairs], [trace for _, trace in pairs], len(indices), request)
    top = None if summit is None else summit.repeat_interleave(many, 0)
    estimates, trace = path_sampling(sampler, request.qs, samples=samples, chains=many, noise=noise, summit=top)
    return _chains(estimates, [trace], len(indices), request)


def _chains(estimates: list[Estimate], traces: list[Trace], n: int, request: IntermediateRequest) -> list[Chains]:
    recorded, burnt = (sum(getattr(trace, which) for trace in traces) for which in ("recorded", "burnt"))
    return [
        Chains(
            numbers=[numbers(one, row) for one in estimates],
            samples=recorded // _cost(request),
            acceptance=float(torch.stack([trace.acceptance[row] for trace in traces]).mean()),
            largest=max(float(trace.largest[row]) for trace in traces),
            recorded=recorded,
            burnt=burnt,
        )
        for row in range(n)
    ]


def numbers(estimate: Estimate, row: int) -> list[float]:
    """log Z_q, half-width, ess, gap and lag of one image, as ``Chains`` and ``Measure`` hold them."""
    columns = (estimate.log_z, estimate.half, estimate.ess, estimate.gap, estimate.lag)
    return [float(column[row]) for column in columns]


def _cost(request: IntermediateRequest) -> int:
    """Model evaluations per sample."""
    return STEPS if request.perturbation.kind == "spatial" else request.leapfrog
