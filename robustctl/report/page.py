"""Results as one self-contained HTML page: no script, no outside file, every text escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from robustctl.report import table
from robustctl.results import Accuracy, UnionResult, mcnemar, unlike
from robustctl.threats import NORMS

Labelled = Sequence[tuple[str, UnionResult]]

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5d6873; --line: #d9dee3; --paper: #fff; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --soft: #9aa5b1; --line: #333b44; --paper: #14181c; --panel: #1c2228; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
p, dd { margin: 0; } .soft { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
td.words { white-space: normal; text-align: left; }
tr.union td { font-weight: 600; } td small { color: var(--soft); font-weight: 400; }
.flag { background: #fff3d6; color: #5c4300; border-left: 4px solid #d99a00; padding: .4rem .8rem; margin: .4rem 0; }
.result { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
          padding: 1rem 1.2rem; margin: 1rem 0; }
.result h3 { margin: 0 0 .5rem; font-size: 1rem; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .15rem 1rem; margin: 0; } dt { color: var(--soft); }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .soft { fill: var(--soft); }
"""
COLOURS = ("#3b6fb6", "#c8553d", "#3a8f6b", "#8a5fb0", "#b08a2e", "#4aa3b8")  # by result, readable on light and dark

LEFT, WIDTH, ROW = 90, 860, 17  # of the chart, in its own units


def render(results: Labelled) -> str:
    """The page of one or more results; the first is what the others are compared with."""
    parts = [
        "<h1>Robustness in the union of threat models</h1>",
        f'<p class="soft">{len(results)} result{"s" * (len(results) > 1)}; accuracies in percent with 95 % Wilson '
        "intervals, which hold the sampling error of the points only.</p>",
        '<h2>Accuracies</h2><div class="scroll">',
        _summary(results),
        "</div>",
        _chart(results),
        *([_comparisons(results)] if len(results) > 1 else []),
        "<h2>How each was measured</h2>",
        *(_details(label, result) for label, result in results),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>robustctl report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _summary(results: Labelled) -> str:
    header, *rows = table.columns(results)
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
    lines += [f'<tr class="{escape(row[0].split()[0])}">{"".join(map(_cell, row))}</tr>' for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _cell(text: str) -> str:
    """A table cell with its interval in small print."""
    value, bracket, rest = text.partition(" [")
    return f"<td>{escape(value)}{f' <small>[{escape(rest)}</small>' if bracket else ''}</td>"


def _figures(result: UnionResult) -> list[tuple[str, float, tuple[float, float]]]:
    """Name, accuracy and interval of each row of the chart."""
    named: list[tuple[str, Accuracy]] = [("clean", result.clean)]
    named += [(norm, result.norms[norm]) for norm in NORMS if norm in result.norms]
    named.append(("union", result.union))
    return [(name, accuracy.acc, accuracy.ci95) for name, accuracy in named]


def _chart(results: Labelled) -> str:
    """Points with their intervals, grouped by threat model, one colour a result."""
    names = ["clean", *(norm for norm in NORMS if any(norm in result.norms for _, result in results)), "union"]
    group = ROW * len(results) + 14
    height = group * len(names) + 30
    marks = [_grid(height)]
    for row, name in enumerate(names):
        top = row * group + 8
        marks.append(f'<text x="{LEFT - 12}" y="{top + group / 2}" text-anchor="end">{name}</text>')
        for i, (_, result) in enumerate(results):
            marks += [_mark(acc, ci95, top + ROW * (i + 0.7), i) for at, acc, ci95 in _figures(result) if at == name]
    legend = " ".join(
        f'<span style="color:{COLOURS[i % len(COLOURS)]}">&#9679;</span> {escape(label)}&ensp;'
        for i, (label, _) in enumerate(results)
    )
    picture = f'<svg viewBox="0 0 {LEFT + WIDTH + 40} {height}" role="img">{"".join(marks)}</svg>'
    return f'<p style="margin-top:1.5rem">{legend}</p>{picture}'


def _grid(height: int) -> str:
    lines = []
    for tick in range(0, 101, 20):
        x = LEFT + WIDTH * tick / 100
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 22}"/>')
        lines.append(f'<text class="soft" x="{x}" y="{height - 6}" text-anchor="middle">{tick} %</text>')
    return "".join(lines)


def _mark(acc: float, ci95: tuple[float, float], y: float, i: int) -> str:
    low, at, high = (LEFT + WIDTH * value for value in (ci95[0], acc, ci95[1]))
    colour = COLOURS[i % len(COLOURS)]
    return (
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{at:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{100 * acc:.1f} %</title></circle>'
    )


def _comparisons(results: Labelled) -> str:
    (base_label, base), *others = results
    rows = "".join(_comparison(base, label, result) for label, result in others)
    return (
        f"<h2>Against {escape(base_label)}, point by point</h2>"
        '<div class="scroll"><table><tr><th>result</th><th>figure</th><th>change</th><th>only the first right</th>'
        f"<th>only this right</th><th>p (exact McNemar)</th></tr>{rows}</table></div>"
    )


def _comparison(base: UnionResult, label: str, result: UnionResult) -> str:
    if reasons := unlike(base, result):
        words = f"does not compare: {escape('; '.join(reasons))}"
        return f'<tr><td>{escape(label)}</td><td colspan="5" class="words">{words}</td></tr>'
    lines = []
    for name in ("clean", *base.norms, "union"):
        before, after = base.points.column(name), result.points.column(name)
        paired = mcnemar(before, after)
        change = 100 * (sum(after) - sum(before)) / len(after)
        p_text = "&lt;0.001" if paired.p_value < 0.001 else f"{paired.p_value:.3f}"
        cells = (escape(label), name, f"{change:+.1f}", str(paired.only_first), str(paired.only_second), p_text)
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "".join(lines)


def _details(label: str, result: UnionResult) -> str:
    rounded = ", ".join(
        f"{norm} {100 * accuracy.acc_8bit:.1f}"
        for norm, accuracy in result.norms.items()
        if accuracy.acc_8bit is not None
    )
    facts = {
        "model": result.model,
        "weights": result.weights_sha256,
        "images": f"{result.data.n} of {result.data.source} ({result.data.split})",
        "list of images": result.data.index_sha256,
        "attack": f"{table.attack_name(result)}, seed {result.attack.seed}, {result.attack.precision}",
        "families": result.attack.protocol,
        "8-bit x_adv": f"{rounded} % when every x_adv is rounded to 8-bit pixels" if rounded else "not measured",
        "float ties": f"{result.float_ties} verdicts so close that rounding could turn them",
        "time": f"{result.seconds:.0f} s on {result.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    flags = "".join(f'<p class="flag">{escape(flag)}</p>' for flag in result.flags)
    return f'<section class="result"><h3>{escape(label)}</h3>{flags}<dl>{_facts(facts.items())}</dl></section>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in facts)
