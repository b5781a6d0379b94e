"""The picture of accuracy against radius: a panel for each norm and one for the union."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustctl.errors import RequestError
from robustctl.files import atomic_path
from robustctl.report.q_curve import COLOURS, FORMATS, POINTS
from robustctl.results.curve import CurveResult
from robustctl.results.result_file import Accuracy
from robustctl.results.union import UnionResult
from robustctl.threats import CurveNorm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 200
LABELS = {
    "linf": "$\\ell_\\infty$ radius",
    "l2": "$\\ell_2$ radius",
    "l1": "$\\ell_1$ radius",
    "l0": "$\\ell_0$: pixels",
}
Curves = Sequence[tuple[str, CurveResult]]
Fixed = Sequence[tuple[str, UnionResult]]


def plot(curves: Curves, fixed: Fixed, path: Path) -> None:
    """Draw curves with 95 % bands (Wilson), and fixed-radius results as marks with their intervals.

    Args:
        curves: a label and a result each, of the same images. path: ends in .png or .svg.
        fixed: results of the same models take their model's colour.

    Raises:
        RequestError: another ending, results of other images, no common norm, or matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"-o {path}: the file must end in {' or '.join(FORMATS)}")
    first = curves[0][1]
    data = [one.data for _, one in curves] + [one.data for _, one in fixed]
    if any(one.content_sha256 != first.data.content_sha256 for one in data):
        raise RequestError("these results are of other images, so that their curves do not compare")
    norms = [norm for norm in first.norms if all(norm in one.norms for _, one in curves)]
    if not norms:
        raise RequestError("these results have no norm in common")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("plots need matplotlib: pip install 'robustctl[plot]'") from None
    with mpl.rc_context({**POINTS, "svg.hashsalt": "robustctl"}):
        panels = len(norms) + (len(norms) > 1)
        figure = Figure(figsize=(6.2 * panels, 5.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        for panel, norm in zip(axes, norms, strict=False):
            _norm_panel(panel, norm, curves, fixed)
        if len(norms) > 1:
            _union_panel(axes[-1], curves, fixed)
        axes[0].set_ylabel("accuracy in %, at most")
        axes[0].legend(frameon=False, loc="upper right")
        figure.suptitle(f"{first.data.n} images of {first.data.text}; bands: 95 % over images", fontsize=16)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _norm_panel(axes: "Axes", norm: CurveNorm, curves: Curves, fixed: Fixed) -> None:
    for k, (label, result) in enumerate(curves):
        curve = result.norms[norm]
        radii = [curve.bound * i / GRID for i in range(GRID + 1)]
        _draw(axes, label, radii, [curve.at(radius) for radius in radii], k)
        if curve.decision is not None:
            alone = curve.model_copy(update={"distance": curve.decision})
            heights = [100 * alone.at(radius).acc for radius in radii]
            axes.step(
                radii,
                heights,
                where="post",
                color=COLOURS[k % len(COLOURS)],
                linestyle="--",
                label=f"{label}: classes alone",
            )
    for _, one in fixed:
        if norm in one.norms:
            _mark(axes, _colour(one, curves), one.norms[norm].eps, one.norms[norm])
    axes.set_xlabel(LABELS[norm])
    _dress(axes)


def _union_panel(axes: "Axes", curves: Curves, fixed: Fixed) -> None:
    for k, (label, result) in enumerate(curves):
        scales = [result.largest_scale * i / GRID for i in range(GRID + 1)]
        _draw(axes, label, scales, [result.union(scale) for scale in scales], k)
    first = curves[0][1]
    for _, one in fixed:
        ratios = {round(one.norms[norm].eps / curve.eps, 9) for norm, curve in first.norms.items() if norm in one.norms}
        if len(ratios) == 1 and len(one.norms) == len(first.norms):
            _mark(axes, _colour(one, curves), ratios.pop(), one.union)
    axes.set_xlabel("scale $s$ of all radii")
    axes.set_title("union", fontsize=16)
    _dress(axes)


def _draw(axes: "Axes", label: str, x: list[float], figures: list[Accuracy], k: int) -> None:
    colour = COLOURS[k % len(COLOURS)]
    axes.step(x, [100 * one.acc for one in figures], where="post", color=colour, label=label)
    low, high = ([100 * one.ci95[end] for one in figures] for end in (0, 1))
    axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _mark(axes: "Axes", colour: str, x: float, figure: Accuracy) -> None:
    low, high = figure.ci95
    ends = [[max(100 * (figure.acc - low), 0)], [max(100 * (high - figure.acc), 0)]]
    axes.errorbar([x], [100 * figure.acc], yerr=ends, color=colour, marker="o", capsize=4, linestyle="none")


def _colour(one: UnionResult, curves: Curves) -> str:
    for k, (_, curve) in enumerate(curves):
        if curve.weights_sha256 == one.weights_sha256:
            return COLOURS[k % len(COLOURS)]
    return COLOURS[-1]


def _dress(axes: "Axes") -> None:
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.grid(True, color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
