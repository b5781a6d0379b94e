"""Curves of accuracy against radius as tables."""

import math
from collections.abc import Sequence

from robustctl.results.curve import CurveResult, competitiveness, median_of
from robustctl.threats import CurveNorm

SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
GRID = 20
"""Radii from 0 (left out) to the bound at which models are compared."""
Labelled = Sequence[tuple[str, CurveResult]]
Rows = list[list[str]]


def table(result: CurveResult) -> str:
    """Accuracy at multiples of the radii, median distance and area, by norm and for the union."""
    scales = [scale for scale in SCALES if scale <= result.largest_scale * (1 + 1e-9)]
    rows = [["accuracy in %", "radius 1", *(f"{scale:g}x" for scale in scales), "median", "area"]]
    for norm, curve in result.norms.items():
        shares = [f"{100 * curve.at(scale * curve.eps).acc:.1f}" for scale in scales]
        rows.append([norm, curve.eps_text, *shares, _distance(curve.median, curve.bound), f"{curve.area:.3f}"])
    if len(result.norms) > 1:
        rows.append(["union", "", *(f"{100 * result.union(scale).acc:.1f}" for scale in scales), "", ""])
    notes = [
        f"{result.model}: {result.data.n} points of {result.data.text}, seed {result.seed}, {result.seconds:.0f} s on "
        f"{result.device}. Accuracies are at most these; every point below the curve has a witness that was judged.",
        "median: distance to the nearest misclassified point; area: mean accuracy from radius 0 to the bound.",
    ]
    for norm, curve in result.norms.items():
        nearest = ", ".join(f"{name} {n}" for name, n in curve.by.items())
        notes.append(f"{norm}: nearest points by {nearest or 'nothing'}; {curve.evaluations:,.0f} gradient evaluations")
        if curve.decision is not None:
            alone = _distance(median_of(curve.decision), curve.bound)
            notes.append(f"{norm}: attacks that see predicted classes alone: median {alone}")
    return "\n".join([aligned(rows), "", *notes, *(f"flag: {flag}" for flag in result.flags)])


def comparison(results: Labelled) -> str:
    """Median, area, and competitiveness ratios of several models against the best of them, by norm and in all.

    The attacks that ratios are over are ``GRID`` radii in each norm, up to the smallest bound.
    """
    norms = [norm for norm in results[0][1].norms if all(norm in one.norms for _, one in results)]
    rows = [["", *(label for label, _ in results)]]
    everything: list[list[float]] = [[] for _ in results]
    for norm in norms:
        curves = [one.norms[norm] for _, one in results]
        rows.append([f"{norm} median", *(_distance(one.median, one.bound) for one in curves)])
        rows.append([f"{norm} area", *(f"{one.area:.3f}" for one in curves)])
        shares = _shares(results, norm)
        rows += _ratios(norm, shares)
        for mine, share in zip(everything, shares, strict=True):
            mine += share
    if len(norms) > 1:
        rows += _ratios("all", everything)
    return aligned(rows)


def _shares(results: Labelled, norm: CurveNorm) -> list[list[float]]:
    bound = min(one.norms[norm].bound for _, one in results)
    return [[one.norms[norm].at(bound * k / GRID).acc for k in range(1, GRID + 1)] for _, one in results]


def _ratios(name: str, shares: list[list[float]]) -> Rows:
    best = [max(column) for column in zip(*shares, strict=True)]
    pairs = [competitiveness(one, best) for one in shares]
    return [
        [f"{name} CR-avg", *(f"{mean:.1f}" for mean, _ in pairs)],
        [f"{name} CR-worst", *(f"{worst:.1f}" for _, worst in pairs)],
    ]


def _distance(value: float | None, bound: float) -> str:
    return f"> {bound:.4g}" if value is None or math.isinf(value) else f"{value:.4g}"


def aligned(rows: Rows) -> str:
    """Columns of equal width, with a line below the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
