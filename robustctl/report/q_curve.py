"""The curve of Z_q against q for one or several models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustctl.errors import RequestError
from robustctl.files import atomic_path
from robustctl.intermediate.results import IntermediateResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any colour vision, with a marker each for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = (".png", ".svg")
POINTS: dict[Any, Any] = {
    "font.size": 16,
    "axes.labelsize": 18,
    "legend.fontsize": 14,
    "lines.linewidth": 2.5,
    "lines.markersize": 8,
}


def plot_curves(curves: Sequence[tuple[str, IntermediateResult]], path: Path) -> None:
    """Draw path-sampling estimates (Monte Carlo's if there are no others) with 95 % bands over images, both axes
    logarithmic; on the right, if it was searched, the strongest attack's loss.

    Args:
        curves: a label and a result each, of the same distribution.
        path: ends in .png or .svg.

    Raises:
        RequestError: another ending, results of different distributions, or matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"-o {path}: the file must end in {' or '.join(FORMATS)}")
    texts = {result.distribution.text for _, result in curves}
    if len(texts) > 1:
        raise RequestError(f"results of different distributions share no axis: {', '.join(sorted(texts))}")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("plots need matplotlib: pip install 'robustctl[plot]'") from None
    with mpl.rc_context({**POINTS, "svg.hashsalt": "robustctl"}):
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        # A logarithmic axis has no zero: a band that reaches it runs out of the picture.
        bottom = min(one.value for _, result in curves for one in result.shown_curve()) / 10
        for k, (label, result) in enumerate(curves):
            _draw(axes, label, result, COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)], bottom)
        _dress(axes, curves, bottom)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _draw(axes: "Axes", label: str, result: IntermediateResult, colour: str, marker: str, bottom: float) -> None:
    points = result.shown_curve()
    q = [one.q for one in points]
    axes.plot(q, [one.value for one in points], color=colour, marker=marker, label=label)
    low = [max(one.ci95[0], bottom) for one in points]
    axes.fill_between(q, low, [one.ci95[1] for one in points], color=colour, alpha=0.18, linewidth=0)
    worst = result.adversarial_loss
    if worst is not None:
        axes.axhline(worst.value, color=colour, linestyle=(0, (2, 2)), linewidth=1.5)


def _dress(axes: "Axes", curves: Sequence[tuple[str, IntermediateResult]], bottom: float) -> None:
    result = curves[0][1]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], bottom))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("q   (1: mean over perturbations; larger: closer to the worst)")
    axes.set_ylabel("$Z_q$ of the cross-entropy (nats)")
    sizes = sorted({one.data.n for _, one in curves})
    axes.set_title(
        f"{result.distribution.text}, n = {', '.join(map(str, sizes))}; bands: 95 % over images", fontsize=16
    )
    if any(one.adversarial_loss is not None for _, one in curves):
        axes.plot([], [], color="#555555", linestyle=(0, (2, 2)), linewidth=1.5, label="strongest attack")
    axes.grid(True, which="major", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
