"""What the parts of the HTML page share: the style sheet, the colours of results, the chart's frame."""

from collections.abc import Iterable
from html import escape

SHEET = """
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

LEFT, WIDTH = 90, 860  # of a chart, in its own units


def colour(i: int) -> str:
    """Of the i-th result."""
    return COLOURS[i % len(COLOURS)]


def chart(labels: Iterable[str], marks: Iterable[str], height: int) -> str:
    """A legend, and below it the marks (SVG) in a picture of this height."""
    legend = " ".join(
        f'<span style="color:{colour(i)}">&#9679;</span> {escape(label)}&ensp;' for i, label in enumerate(labels)
    )
    picture = f'<svg viewBox="0 0 {LEFT + WIDTH + 40} {height}" role="img">{"".join(marks)}</svg>'
    return f'<p style="margin-top:1.5rem">{legend}</p>{picture}'


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows of text, the first of them the header; what stands in brackets after a number is set small."""
    header, *body = rows
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
    for row in body:
        cells = list(row)
        lines.append(f'<tr class="{escape(cells[0].split()[0])}">{"".join(map(_cell, cells))}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cell(text: str) -> str:
    value, bracket, rest = text.partition(" [")
    return f"<td>{escape(value)}{f' <small>[{escape(rest)}</small>' if bracket else ''}</td>"
