"""Tables of methods as text, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from robustctl.report.columns import columns
from robustctl.report.methods import Cell, MethodTable, Row

SIGNIFICANT = 0.05
LATEX_NAMES = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}
SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"$<$",
    ">": r"$>$",
}


def text(made: Sequence[MethodTable]) -> str:
    """Aligned columns; ``*`` stands after the best figure of a column."""
    return "\n\n".join(_text(one) for one in made)


def _text(made: MethodTable) -> str:
    rows = _grid(made, lambda cell: figure(cell) + "*" * cell.best + _p_text(cell))
    best = ["* the best of its column."] if any(cell.best for row in made.rows for cell in row.cells.values()) else []
    return "\n".join([f"{made.title}, accuracy in %", "", columns(rows, rule=True), "", *best, *_notes(made)])


def markdown(made: Sequence[MethodTable]) -> str:
    """Tables in Markdown, the best figure of a column in bold."""
    return "\n\n".join(_markdown(one) for one in made)


def _markdown(made: MethodTable) -> str:
    rows = _grid(made, lambda cell: (f"**{figure(cell)}**" if cell.best else figure(cell)) + _p_text(cell))
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join([f"{made.title}, accuracy in %", "", *lines, "", *(f"{note}  " for note in _notes(made))])


def latex(made: Sequence[MethodTable]) -> str:
    """Tables for LaTeX with the package ``booktabs``, the best figure of a column in bold."""
    return "\n\n".join(_latex(one) for one in made)


def _latex(made: MethodTable) -> str:
    head = " & ".join(["method", *(_latex_heading(heading) for heading in made.headings.values())])
    lines = [f"% {made.title}", *(f"% {note}" for note in _notes(made))]
    lines += ["% A dagger marks p below 0.05."] if made.against is not None else []
    lines += [f"\\begin{{tabular}}{{l{'r' * len(made.headings)}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    for row in made.rows:
        name = escaped(row.name) + (f" ({len(row.seeds)} seeds)" if len(row.seeds) > 1 else "")
        lines.append(" & ".join([name, *(_latex_cell(row.cells[column]) for column in made.headings)]) + r" \\")
        if row.paper:
            figures = [_reported(row, column) for column in made.headings]
            lines.append(" & ".join([rf"\quad {escaped(row.paper.source)}", *figures]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_heading(heading: str) -> str:
    name, _, eps = heading.partition(":")
    if eps.startswith(" "):  # a group's figure: "ramp: union"
        return escaped(heading)
    return f"{LATEX_NAMES.get(name, escaped(name))}" + (f":${eps}$" if eps else "")


def _latex_cell(cell: Cell) -> str:
    mean = f"{100 * cell.mean:.1f}"
    mean = rf"\mathbf{{{mean}}}" if cell.best else mean
    bound = r"\le " if cell.is_bound else ""
    sd = rf" \pm {100 * cell.sd:.1f}" if cell.sd is not None else ""
    mark = r"^\dagger" if cell.p is not None and cell.p < SIGNIFICANT else ""
    return f"${bound}{mean}{mark}{sd}$"


def escaped(raw: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(sign, sign) for sign in raw)


def as_csv(made: Sequence[MethodTable]) -> str:
    """One row per method. Several ways of measuring give columns of their own, which begin with what was measured."""
    names: list[str] = ["method", "seeds"]
    records: list[dict[str, object]] = []
    for one in made:
        prefix = f"{one.title}: " if len(made) > 1 else ""
        for row in one.rows:
            record: dict[str, object] = {"method": row.name, "seeds": len(row.seeds)}
            for column, heading in one.headings.items():
                for kind, value in _values(row, column).items():
                    record[f"{prefix}{heading}{' ' * bool(kind)}{kind}"] = value
            names += [name for name in record if name not in names]
            records.append(record)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue().rstrip("\n")


def as_json(made: Sequence[MethodTable]) -> str:
    """A list of tables, accuracies in [0,1] (a paper's too)."""
    content = [
        {
            "measured": one.title,
            "against": one.against,
            "rows": [
                {
                    "method": row.name,
                    "seeds": row.seeds,
                    "paper": row.paper.source if row.paper else None,
                    "figures": {column: _values(row, column, names=True) for column in one.headings},
                }
                for row in one.rows
            ],
            "notes": _notes(one),
        }
        for one in made
    ]
    return json.dumps(content, indent=1)


FORMATS: dict[str, Callable[[Sequence[MethodTable]], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
}


def figure(cell: Cell) -> str:
    """``62.1 ± 0.8 [58.0, 66.1]``, with ``<=`` before a bound."""
    sd = f" ± {100 * cell.sd:.1f}" if cell.sd is not None else ""
    low, high = cell.ci95
    return f"{'<= ' * cell.is_bound}{100 * cell.mean:.1f}{sd} [{100 * low:.1f}, {100 * high:.1f}]"


def _grid(made: MethodTable, show: Callable[[Cell], str]) -> list[list[str]]:
    """Header and rows of texts; a paper's figures stand below its method's."""
    rows = [["method", "seeds", *made.headings.values()]]
    for row in made.rows:
        rows.append([row.name, str(len(row.seeds)), *(show(row.cells[column]) for column in made.headings)])
        if row.paper:
            rows.append([f"  {row.paper.source}", "", *(_reported(row, column) for column in made.headings)])
    return rows


def _reported(row: Row, column: str) -> str:
    value = row.paper.accuracies.get(column) if row.paper else None
    return "-" if value is None else f"{value:.1f}"


def _p_text(cell: Cell) -> str:
    if cell.p is None:
        return ""
    return " p<0.001" if cell.p < 0.001 else f" p={cell.p:.3f}"


def _values(row: Row, column: str, *, names: bool = False) -> dict[str, object]:
    """The parts of a figure; the first is called ``mean`` (``names``) or nothing, and absent ones are left out."""
    cell = row.cells[column]
    reported = row.paper.accuracies.get(column) if row.paper else None
    values: dict[str, object] = {
        "mean" if names else "": round(cell.mean, 6),
        "sd": None if cell.sd is None else round(cell.sd, 6),
        "low": round(cell.ci95[0], 6),
        "high": round(cell.ci95[1], 6),
        "bound": int(cell.is_bound),
        "p": cell.p,
        "paper": None if reported is None else round(reported / 100, 6),
    }
    return {name: value for name, value in values.items() if value is not None}


def _notes(made: MethodTable) -> list[str]:
    several = any(len(row.seeds) > 1 for row in made.rows)
    notes = ["Mean ± standard deviation over seeds of the training."] if several else []
    notes.append("In brackets: 95 % for the sampling error of the points. Robust accuracies are at most these.")
    if made.against is not None:
        test = "the larger p of a paired t-test over points and Welch's t-test over seeds" if several else "paired test"
        notes.append(f"p: against {made.against}, {test}, corrected by Holm for the number of rows.")
    if any(row.paper for row in made.rows):
        notes.append("Below a method: what its paper reports, by the recipe, for the paper's own points and attacks.")
    return [*notes, *made.notes]
