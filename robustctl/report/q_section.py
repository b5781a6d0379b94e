"""The page's section on intermediate-q results: for each distribution the curves of Z_q against q, and the numbers."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import style
from robustctl.report.style import LEFT, WIDTH

if TYPE_CHECKING:
    from markupsafe import Markup

Labelled = Sequence[tuple[str, IntermediateResult]]

HEIGHT, TOP, BOTTOM = 384, 12, 310  # of the picture, and of its axes; y grows downwards


def render(curves: Labelled) -> "Markup":
    """The section; results of different distributions share no axis, so each distribution has a chart of its own."""
    texts = dict.fromkeys(result.distribution.text for _, result in curves)
    groups = [_group(text, [one for one in curves if one[1].distribution.text == text]) for text in texts]
    return style.fill("q_section.html", groups=groups, HEIGHT=HEIGHT, TOP=TOP, BOTTOM=BOTTOM)


def _group(text: str, curves: Labelled) -> dict[str, object]:
    """The values of the template for one distribution."""
    x, y = _axes(curves)
    labels = [f"{label} (n {result.data.n})" for label, result in curves]
    return {
        "text": text,
        "labels": labels,
        "short": style.short_names(labels),
        "x_ticks": [(x.at(tick), f"{tick:g}") for tick in x.ticks()],
        "y_ticks": [(y.at(tick), f"{tick:g}") for tick in y.ticks()],
        "curves": [_curve(result, x, y, style.colour(i)) for i, (_, result) in enumerate(curves)],
        "rows": list(_rows(curves)),
    }


class _Axis:
    """A logarithmic axis from ``low`` to ``high`` (> 0), drawn between two positions of the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = min(values), max(values)
        if self.high / self.low < 1.1:
            self.low, self.high = self.low / 2, self.high * 2
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * min(share, 1.0)

    def ticks(self) -> list[float]:
        """Powers of ten, and with fewer than three of them their doubles and fivefolds too."""
        decades = [10.0**k for k in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)]
        inside = [tick for tick in decades if self.low <= tick <= self.high]
        if len(inside) > 2:
            return inside
        finer = [factor * tick for tick in decades for factor in (1, 2, 5)]
        return [tick for tick in finer if self.low <= tick <= self.high]


def _axes(curves: Labelled) -> tuple[_Axis, _Axis]:
    """The axes of q and of the loss that hold all curves, their bands and the strongest attacks' losses."""
    drawn = [one for _, result in curves for one in result.shown_curve()]
    values = [one.value for one in drawn if one.value > 0] or [1.0]
    bottom = min(values) / 10  # a logarithmic axis has no zero: a band that reaches it ends here
    losses = [*values, *(max(end, bottom) for one in drawn for end in one.ci95)]
    losses += [result.adversarial_loss.value for _, result in curves if result.adversarial_loss]
    x = _Axis([one.q for one in drawn], LEFT, LEFT + WIDTH)
    return x, _Axis([max(loss, bottom) for loss in losses], BOTTOM, TOP)


def _curve(result: IntermediateResult, x: _Axis, y: _Axis, colour: str) -> dict[str, object]:
    """The band, the line and the points of one result, and the height of the strongest attack's loss."""
    curve = result.shown_curve()

    def corners(pairs: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{x.at(q):.1f},{y.at(loss):.1f}" for q, loss in pairs)

    upper, lower = [(one.q, one.ci95[1]) for one in curve], [(one.q, one.ci95[0]) for one in reversed(curve)]
    return {
        "colour": colour,
        "band": corners(upper + lower),
        "line": corners((one.q, one.value) for one in curve),
        "points": [(x.at(one.q), y.at(one.value), f"q = {one.q:g}: {one.value:.4g}") for one in curve],
        "worst": y.at(result.adversarial_loss.value) if result.adversarial_loss else None,
    }


def _rows(curves: Labelled) -> Iterator[list[str]]:
    """A row per result: the loss on clean images, at each q, and of the strongest attack."""
    qs = sorted({one.q for _, result in curves for one in result.shown_curve()})
    yield ["loss in nats", "clean", *(f"q = {q:g}" for q in qs), "strongest attack"]
    for label, result in curves:
        at = {one.q: one for one in result.shown_curve()}
        losses = [result.clean_loss, *(at.get(q) for q in qs), result.adversarial_loss]
        yield [label, *(_loss(one.value, one.ci95) if one else "-" for one in losses)]


def _loss(value: float, ci95: tuple[float, float]) -> str:
    return f"{value:.4g} [{ci95[0]:.4g}, {ci95[1]:.4g}]"
