"""From measures of single images to the result of an intermediate-q evaluation, with its warnings."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

from robustctl.data import ImageData
from robustctl.intermediate.measure import Kind, Measure, carried_by_few
from robustctl.intermediate.request import IntermediateRequest
from robustctl.intermediate.results import (
    AdversarialLoss,
    Cost,
    DistributionInfo,
    Images,
    IntermediateResult,
    MeanLoss,
    ProbAccuracy,
    QEstimate,
    lower_bound,
    mean_and_half,
)
from robustctl.results.result_file import Accuracy
from robustctl.version import versions

FAULTS = {
    "mc": "it is too small, and so is its interval",
    "path": "its chains have hardly mixed and the value may be off by more than its interval; raise --most-samples, "
    "and compare with --estimator ais",
    "ais": "it lies below the truth, by more than its interval may say; raise --most-samples",
}
FEWEST_ACCEPTED = 0.4  # mean acceptance of an image below which its chains count as stuck


def summarize(
    measures: Sequence[Measure],
    request: IntermediateRequest,
    data: ImageData,
    *,
    name: str,
    weights: str,
    seconds: float,
    device: str,
    flags: Sequence[str] = (),
) -> IntermediateResult:
    """Averages, intervals and warnings.

    Args:
        measures: one per image, in the order of ``data``.
        flags: warnings that stand before the numbers' own.
    """
    estimates = list(_estimates(measures, request))
    images = _images(measures, request)
    adversarial = _adversarial(measures, request, images)
    return IntermediateResult(
        model=name,
        weights_sha256=weights,
        data=data.info,
        distribution=_distribution(request),
        clean=Accuracy.of([int(one.clean_right) for one in measures]),
        clean_loss=MeanLoss.of([one.clean_loss for one in measures]),
        estimates=estimates,
        random=images.random,
        probacc=[ProbAccuracy(**images.probacc(rho).model_dump(), rho=rho) for rho in request.rhos],
        adversarial_loss=adversarial,
        seed=request.seed,
        cost=_cost(measures),
        images=images,
        flags=[*flags, *_flags(measures, request, estimates, adversarial)],
        seconds=seconds,
        device=device,
        versions=versions(),
    )


def _estimates(measures: Sequence[Measure], request: IntermediateRequest) -> Iterator[QEstimate]:
    for k, q in enumerate(request.qs):
        for kind in request.kinds:
            yield _estimate(kind, q, [one.numbers(kind, k) for one in measures], measures, request)


def _estimate(
    kind: Kind,
    q: float,
    rows: list[list[float]],
    measures: Sequence[Measure],
    request: IntermediateRequest,
) -> QEstimate:
    """Average Z_q over images. Errors of chains are independent and add in quadrature; lags share a sign and do not.

    The spread over images contains the errors of chains, but not the lag.
    """
    log_z, half, ess, gap, lag = (list(column) for column in zip(*rows, strict=True))
    z = [math.exp(value) for value in log_z]
    mean, over_images = mean_and_half(z)
    mean_lag = _mean_product(z, lag)
    errors = math.fsum(value**2 * (h**2 - one**2) for value, h, one in zip(z, half, lag, strict=True))
    over_chains = math.hypot(math.sqrt(max(0.0, errors)) / len(z), mean_lag)
    path, chains = kind == "path", kind != "mc"
    samples = [_per_q(one.samples(kind), request) if path else one.samples(kind) for one in measures]
    accepted = [one.acceptance(kind) for one in measures]
    return QEstimate(
        value=mean,
        ci95=_around(mean, max(math.hypot(over_images, mean_lag), over_chains)),
        ci95_sampling=_around(mean, over_chains),
        q=q,
        estimator=kind,
        grid=request.grid if path else None,
        samples=statistics.median_low(samples),
        leapfrog=request.leapfrog if chains and request.perturbation.kind != "spatial" else 0,
        chains=request.chains if chains else None,
        acceptance=statistics.fmean(one or 0.0 for one in accepted) if chains else None,
        ess=statistics.median(ess),
        chain_gap=_mean_product(z, gap) if chains else None,
        lag=mean_lag if kind == "ais" or (path and request.grid == "graded") else None,
        bound=lower_bound(log_z, q) if kind == "ais" else None,
        log_z=log_z,
        log_z_half=half,
        samples_images=samples,
        ess_images=ess,
    )


def _per_q(samples: int, request: IntermediateRequest) -> int:
    """The graded grid is shared by all q; the thesis's is run anew for each."""
    return samples if request.grid == "graded" else samples // len(request.qs)


def _mean_product(z: Sequence[float], change: Sequence[float]) -> float:
    """Mean change of z for these changes of log z."""
    return math.fsum(a * b for a, b in zip(z, change, strict=True)) / len(z)


def _around(mean: float, half: float) -> tuple[float, float]:
    return max(0.0, mean - half), mean + half


def _images(measures: Sequence[Measure], request: IntermediateRequest) -> Images:
    spatial = request.perturbation.kind == "spatial"
    searched = request.ball is not None or spatial
    return Images(
        clean=[int(one.clean_right) for one in measures],
        clean_loss=[one.clean_loss for one in measures],
        right=[one.right / one.draws for one in measures],
        draws=measures[0].draws,
        largest_loss=[_strongest(one, spatial) for one in measures] if searched else None,
        unbroken=[int(one.clean_right and one.attack_right) for one in measures] if searched else None,
    )


def _adversarial(measures: Sequence[Measure], request: IntermediateRequest, images: Images) -> AdversarialLoss | None:
    spatial = request.perturbation.kind == "spatial"
    if images.largest_loss is None or images.unbroken is None:
        return None
    pgd, apgd = (
        (None, None)
        if spatial
        else (math.fsum(one.attack_losses[i] for one in measures) / len(measures) for i in (0, 1))
    )
    return AdversarialLoss(
        **MeanLoss.of(images.largest_loss).model_dump(),
        ball="samples" if request.ball is None else str(request.ball),
        pgd=pgd,
        apgd=apgd,
        accuracy=Accuracy.of(images.unbroken),
    )


def _strongest(measure: Measure, spatial: bool) -> float:
    return measure.largest if spatial else max(measure.clean_loss, *measure.attack_losses)


def _distribution(request: IntermediateRequest) -> DistributionInfo:
    kind, size = request.perturbation.kind, request.perturbation.size
    return DistributionInfo(
        kind=kind,
        eps=size if kind in ("linf", "l2") else None,
        sigma=size if kind == "gaussian" else None,
        text=str(request.perturbation),
    )


def _cost(measures: Sequence[Measure]) -> Cost:
    """The mean of all images, rounded."""
    return Cost(
        recorded=round(statistics.fmean(sum(chains.recorded for chains in one.chains) for one in measures)),
        burn_in=round(statistics.fmean(sum(chains.burnt for chains in one.chains) for one in measures)),
        attacks=round(statistics.fmean(one.attacks for one in measures)),
        forwards=round(statistics.fmean(one.forwards for one in measures)),
    )


def _below(path: Sequence[QEstimate], ais: dict[float, QEstimate]) -> Iterator[str]:
    """Path sampling's values that annealed importance sampling proves, or on average says, to be too low."""
    for one in path:
        other = ais.get(one.q)
        if other is None or other.bound is None:
            continue
        if one.ci95_sampling[1] < other.value or one.value < other.bound:
            yield (
                f"too low: {one.name} is {one.value:.4g} [{one.ci95_sampling[0]:.4g}, {one.ci95_sampling[1]:.4g}], but "
                f"annealed importance sampling, which errs downwards, is {other.value:.4g} (at least {other.bound:.4g})"
            )


def _flags(
    measures: Sequence[Measure],
    request: IntermediateRequest,
    estimates: Sequence[QEstimate],
    adversarial: AdversarialLoss | None,
) -> Iterator[str]:
    path = [one for one in estimates if one.estimator == "path"]
    ais = {one.q: one for one in estimates if one.estimator == "ais"}
    yield from _below(path, ais)
    for low, high in itertools.pairwise(path):
        slack = math.hypot(low.ci95_sampling[1] - low.value, high.ci95_sampling[1] - high.value)
        if high.value < low.value - slack:
            yield f"decreasing: {low.name} is {low.value:.4g} and {high.name} only {high.value:.4g}"
    # Gaussian noise fills no ball, so no attack bounds its losses.
    if adversarial is not None and request.perturbation.threat is not None:
        for one in estimates:
            if one.ci95_sampling[0] > adversarial.value:
                yield (
                    f"above the attack: {one.name} is {one.value:.4g}, the strongest attack's loss "
                    f"{adversarial.value:.4g}: the attack is too weak or the chains are off"
                )
    stuck = sum(any(chains.acceptance < FEWEST_ACCEPTED for chains in one.chains) for one in measures)
    if stuck:
        yield (
            f"acceptance: below {FEWEST_ACCEPTED:.0%} on {stuck} of {len(measures)} images after the burn-in "
            "(wanted: 60-70 %); their chains went on with the last step"
        )
    for one in estimates:
        assert one.ess_images is not None and one.samples_images is not None
        pairs = list(zip(one.ess_images, one.samples_images, strict=True))
        few = sum(carried_by_few(one.estimator, ess, samples) for ess, samples in pairs)
        if few and (one.q > 1 or one.estimator != "mc"):
            yield (
                f"{one.name}: on {few} of {len(pairs)} images too few samples carry the value (median image: "
                f"{one.ess:.3g} of {one.samples}); {FAULTS[one.estimator]}"
            )
    if request.grid == "thesis" and path:
        yield "thesis grid: biased low at large q, and its intervals do not cover that; the graded grid is not"
