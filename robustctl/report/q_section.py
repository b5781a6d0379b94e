"""The page's section on intermediate-q results: for each distribution the curves of Z_q against q, and the numbers."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import style
from robustctl.report.style import LEFT, WIDTH

Labelled = Sequence[tuple[str, IntermediateResult]]

HEIGHT, TOP, BOTTOM = 360, 12, 310  # of the picture, and of its axes; y grows downwards


def render(curves: Labelled) -> str:
    """The section; results of different distributions share no axis, so each distribution has a chart of its own."""
    texts = dict.fromkeys(result.distribution.text for _, result in curves)
    groups = [[one for one in curves if one[1].distribution.text == text] for text in texts]
    return "\n".join(
        [
            "<h2>Between random and worst perturbations</h2>",
            '<p class="soft">Z_q = E[loss^q]^(1/q) of the cross-entropy in nats over random perturbations: the mean at '
            "q = 1, closer to the worst as q grows. Bands and brackets: 95 % over images. Dashed: the strongest "
            "attack.</p>",
            *(_group(text, group) for text, group in zip(texts, groups, strict=True)),
        ]
    )


def _group(text: str, curves: Labelled) -> str:
    labels = [f"{label} (n {result.data.n})" for label, result in curves]
    return f"<h3>{escape(text)}</h3>{style.chart(labels, _marks(curves), HEIGHT)}{style.table(_rows(curves))}"


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


def _marks(curves: Labelled) -> Iterator[str]:
    """Axes, and of each result its band, its curve and the strongest attack's loss."""
    drawn = [one for _, result in curves for one in result.shown_curve()]
    values = [one.value for one in drawn if one.value > 0] or [1.0]
    bottom = min(values) / 10  # a logarithmic axis has no zero: a band that reaches it ends here
    losses = [*values, *(max(end, bottom) for one in drawn for end in one.ci95)]
    losses += [result.adversarial_loss.value for _, result in curves if result.adversarial_loss]
    x = _Axis([one.q for one in drawn], LEFT, LEFT + WIDTH)
    y = _Axis([max(loss, bottom) for loss in losses], BOTTOM, TOP)
    yield from _grid(x, y)
    for i, (_, result) in enumerate(curves):
        yield from _curve(result, x, y, style.colour(i))


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for tick in x.ticks():
        yield f'<line class="grid" x1="{x.at(tick):.1f}" x2="{x.at(tick):.1f}" y1="{TOP}" y2="{BOTTOM}"/>'
        yield f'<text class="soft" x="{x.at(tick):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
    for tick in y.ticks():
        yield f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y.at(tick):.1f}" y2="{y.at(tick):.1f}"/>'
        yield f'<text class="soft" x="{LEFT - 12}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
    yield f'<text x="{LEFT + WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">q</text>'
    middle = (TOP + BOTTOM) / 2
    yield f'<text x="24" y="{middle}" text-anchor="middle" transform="rotate(-90 24 {middle})">Z_q (nats)</text>'


def _curve(result: IntermediateResult, x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    curve = result.shown_curve()
    upper = [f"{x.at(one.q):.1f},{y.at(one.ci95[1]):.1f}" for one in curve]
    lower = [f"{x.at(one.q):.1f},{y.at(one.ci95[0]):.1f}" for one in reversed(curve)]
    yield f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" fill-opacity="0.15"/>'
    line = " ".join(f"{x.at(one.q):.1f},{y.at(one.value):.1f}" for one in curve)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for one in curve:
        title = f"<title>q = {one.q:g}: {one.value:.4g}</title>"
        yield f'<circle cx="{x.at(one.q):.1f}" cy="{y.at(one.value):.1f}" r="5" fill="{colour}">{title}</circle>'
    if result.adversarial_loss:
        at = f"{y.at(result.adversarial_loss.value):.1f}"
        yield f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{at}" y2="{at}" stroke="{colour}" stroke-dasharray="6 4"/>'


def _rows(curves: Labelled) -> Iterator[list[str]]:
    yield ["loss in nats", *(label for label, _ in curves)]
    yield ["clean", *(_loss(result.clean_loss.value, result.clean_loss.ci95) for _, result in curves)]
    for q in sorted({one.q for _, result in curves for one in result.shown_curve()}):
        at_q = [next((one for one in result.shown_curve() if one.q == q), None) for _, result in curves]
        yield [f"q = {q:g}", *(_loss(one.value, one.ci95) if one else "-" for one in at_q)]
    worst = [result.adversarial_loss for _, result in curves]
    yield ["strongest attack", *(_loss(one.value, one.ci95) if one else "-" for one in worst)]


def _loss(value: float, ci95: tuple[float, float]) -> str:
    return f"{value:.4g} [{ci95[0]:.4g}, {ci95[1]:.4g}]"
