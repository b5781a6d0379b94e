"""The plain text table of an intermediate-q evaluation."""

from collections.abc import Iterator

from robustctl.intermediate.measure import Kind
from robustctl.intermediate.results import IntermediateResult, QEstimate
from robustctl.report.columns import columns

LABELS: dict[Kind, str] = {"mc": "Z_MC", "path": "Z_PS", "ais": "Z_AIS"}
Row = tuple[str, ...]


def table(result: IntermediateResult) -> str:
    """Losses with their intervals and diagnostics, accuracies, cost and flags."""
    head = f"{result.model} on {result.data.source} {result.data.split}, n={result.data.n}; {result.distribution.text}"
    header = ("loss (nats)", "value", "95 % images", "95 % chains", "ess", "accept", "gap", "lag", "at least")
    losses = columns([header, *_losses(result)])
    shares = columns([("accuracy (%)", "value", "95 %"), *_accuracies(result)])
    cost = result.cost
    spent = (
        f"cost an image: {cost.recorded} gradients in samples, {cost.burn_in} in burn-in, {cost.attacks} in attacks, "
        f"{cost.forwards} forward passes; {result.seconds:.1f} s on {result.device}"
    )
    return "\n".join([head, "", losses, "", shares, "", spent, *(f"flag: {flag}" for flag in result.flags)])


def _losses(result: IntermediateResult) -> Iterator[Row]:
    yield ("clean", f"{result.clean_loss.value:.4g}", _interval(result.clean_loss.ci95), *[""] * 6)
    for kind in LABELS:
        for one in result.curve(kind):
            yield _estimate(one)
    adversarial = result.adversarial_loss
    if adversarial is not None:
        yield (f"worst, {adversarial.ball}", f"{adversarial.value:.4g}", _interval(adversarial.ci95), *[""] * 6)
        for name, value in (("PGD", adversarial.pgd), ("APGD", adversarial.apgd)):
            if value is not None:
                yield (f"  {name}", f"{value:.4g}", *[""] * 7)


def _estimate(one: QEstimate) -> Row:
    return (
        f"{LABELS[one.estimator]}, q={one.q:g}",
        f"{one.value:.4g}",
        _interval(one.ci95),
        _interval(one.ci95_sampling),
        f"{one.ess:.3g} of {one.samples}",
        "" if one.acceptance is None else f"{one.acceptance:.2f}",
        "" if one.chain_gap is None else f"{one.chain_gap:+.2g}",
        "" if one.lag is None else f"{one.lag:+.2g}",
        "" if one.bound is None else f"{one.bound:.4g}",
    )


def _accuracies(result: IntermediateResult) -> Iterator[Row]:
    rows = [("clean", result.clean.acc, result.clean.ci95), ("random", result.random.acc, result.random.ci95)]
    rows += [(f"ProbAcc({one.rho:g})", one.acc, one.ci95) for one in result.probacc]
    if result.adversarial_loss is not None:
        worst = result.adversarial_loss
        rows.append((f"worst, {worst.ball}", worst.accuracy.acc, worst.accuracy.ci95))
    for name, share, (low, high) in rows:
        yield (name, f"{100 * share:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]")


def _interval(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]"
