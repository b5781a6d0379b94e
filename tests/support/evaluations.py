"""How many gradient evaluations protocols spend for their robust points, in a table and a picture.

    python tests/support/evaluations.py RESULT.json... [--picture FILE]

reads the results of ``robustctl eval`` and the stores that lie beside them. Results of the same model, images, radii
and seed are compared with that of ``standard``. An evaluation is a forward pass with input gradient, and half of one a
forward pass alone; those of the second opinion do not count.

The picture has a panel for each model (the first seed that was given), with a mark at the end of each family or round,
and one with the published figures of Adaptive Auto Attack (``a3.csv``: tables of CIFAR-10 in the authors' repository,
arXiv:2203.05154; robust accuracy in %, passes in millions for 10,000 images).
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustctl.evaluation.protocols import ROUNDS, families
from robustctl.evaluation.store import Store
from robustctl.evaluation.store_key import Key, read_key
from robustctl.results import union
from robustctl.threats import Norm

A3 = Path(__file__).parent / "a3.csv"
A3_IMAGES = 10_000
STYLES = {"adaptive": "-", "standard": "--", "full": ":"}
COLOURS: dict[Norm, str] = {"linf": "C0", "l2": "C1", "l1": "C2"}


@dataclass(frozen=True)
class Spent:
    """One evaluation: its robust points and, by norm, its steps in their order: evaluations, and robust points left."""

    model: str
    n: int
    images: str
    threats: tuple[str, ...]
    protocol: str
    seed: int
    robust: dict[str, int]
    steps: dict[Norm, list[tuple[int, int]]]

    @property
    def evaluations(self) -> dict[Norm, int]:
        """By norm."""
        return {norm: sum(spent for spent, _ in steps) for norm, steps in self.steps.items()}

    @property
    def of(self) -> tuple[object, ...]:
        """What two evaluations must share to be compared."""
        return self.model, self.images, self.threats, self.seed


def read(path: Path) -> Spent:
    """A result and what its store says that each family spent."""
    result = union.read(path)
    robust = {norm: sum(column) for norm, column in result.points.robust.items()}
    return Spent(
        result.model,
        result.data.n,
        result.data.content_sha256,
        result.threats,
        result.attack.name,
        result.attack.seed,
        {**robust, "union": sum(result.points.union())},
        _rounds(result) if result.rounds else _families(result, path.with_suffix(".sqlite")),
    )


def _rounds(result: union.UnionResult) -> dict[Norm, list[tuple[int, int]]]:
    steps: dict[Norm, list[tuple[int, int]]] = {}
    for one in result.rounds or []:
        steps.setdefault(one.norm, []).append((one.evaluations, one.left - one.broken))
    return steps


def _families(result: union.UnionResult, path: Path) -> dict[Norm, list[tuple[int, int]]]:
    """The families of a fixed protocol in the order in which each point meets them."""
    right = {position for position, is_right in enumerate(result.points.clean) if is_right}
    key: Key = {name: json.loads(text) for name, text in read_key(path).items()}
    steps: dict[Norm, list[tuple[int, int]]] = {}
    with Store(path, key) as store:
        spent = store.spent()
        for norm in result.norms:
            left = set(right)
            for family in families(result.attack.name, norm):
                left -= store.broken(norm, family.name)
                steps.setdefault(norm, []).append((spent[norm, family.name], len(left)))
    return steps


def table(results: Sequence[Spent]) -> str:
    """A row for each result of a protocol but ``standard``, and behind a stroke what ``standard`` left and spent, in
    Markdown. Robust points are at most these; evaluations are in thousands."""
    names = [*COLOURS, "union"]
    lines = [
        "| model, points | seed | protocol | "
        f"{' | '.join(names)} | evaluations | fewer: {', '.join(COLOURS)}; in all |",
        "|" + "---|" * 9,
    ]
    for one in (one for one in results if one.protocol != "standard"):
        other = _standard(one, results)
        counts = [f"{one.robust[name]}" + (f" / {other.robust[name]}" if other else "") for name in names]
        spent = f"{_thousands(one)}" + (f" / {_thousands(other)}" if other else "")
        cells = [f"`{one.model}`, {one.n:,}", one.seed, one.protocol, *counts, spent, _fewer(one, other)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _thousands(one: Spent) -> str:
    return f"{sum(one.evaluations.values()) / 1000:,.1f}"


def _standard(one: Spent, results: Iterable[Spent]) -> Spent | None:
    if one.protocol not in ROUNDS:
        return None
    return next((other for other in results if other.protocol == "standard" and other.of == one.of), None)


def _fewer(one: Spent, other: Spent | None) -> str:
    if other is None:
        return ""
    here, there = one.evaluations, other.evaluations
    by_norm = ", ".join(f"{there[norm] / here[norm]:.1f}" for norm in here if norm in there)
    return f"{by_norm}; **{sum(there.values()) / sum(here.values()):.1f}**"


def weaker(results: Sequence[Spent]) -> str:
    """By model and column, the robust accuracy of an adaptive protocol less that of ``standard``: the mean over seeds,
    and each seed, in percentage points."""
    lines = ["| model | seeds | " + " | ".join([*COLOURS, "union"]) + " |", "|" + "---|" * 6]
    for model in dict.fromkeys(one.model for one in results):
        pairs = [(one, other) for one in results if one.model == model and (other := _standard(one, results))]
        if pairs:
            cells = []
            for name in [*COLOURS, "union"]:
                gaps = [100 * (one.robust[name] - other.robust[name]) / one.n for one, other in pairs]
                cells.append(f"{statistics.fmean(gaps):+.2f} ({', '.join(f'{gap:+.1f}' for gap in gaps)})")
            lines.append(f"| `{model}` | {len(pairs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(results: Sequence[Spent], path: Path) -> None:
    """Robust accuracy against evaluations for an image, a panel a model, and the published figures of A3."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    models = list(dict.fromkeys(one.model for one in results))
    columns = -(-(len(models) + 1) // 2)
    figure = Figure(figsize=(4.2 * columns, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, columns, squeeze=False).flatten()
    for panel, model in zip(panels, models, strict=False):
        drawn: set[str] = set()
        for one in (one for one in results if one.model == model and one.protocol not in drawn):
            drawn.add(one.protocol)
            for norm, steps in one.steps.items():
                x = [sum(spent for spent, _ in steps[: k + 1]) / one.n for k in range(len(steps))]
                y = [100 * left / one.n for _, left in steps]
                panel.plot(x, y, STYLES[one.protocol], color=COLOURS[norm], marker=".")
            panel.set_title(f"{model}, {one.n:,} points")
    _published(panels[len(models)], results)
    for panel in panels[len(models) + 1 :]:
        panel.set_axis_off()
    for panel in panels[: len(models) + 1]:
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(True, color="#dddddd")
        panel.set_xlabel("gradient evaluations an image")
        panel.set_ylabel("robust accuracy in %, at most")
    used = {one.protocol for one in results}
    lines = [Line2D([], [], color=colour, label=norm) for norm, colour in COLOURS.items()]
    lines += [
        Line2D([], [], color="black", linestyle=style, label=name) for name, style in STYLES.items() if name in used
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=110)


def _published(panel: object, results: Sequence[Spent]) -> None:
    """AutoAttack and A3 on the same published models, an arrow each; ours are squares, of other models."""
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    for row in csv.DictReader(A3.open()):
        ends = []
        for name in ("autoattack", "a3"):
            forward, backward = float(row[f"{name}_forward"]), float(row[f"{name}_backward"])
            ends.append((1e6 * (forward + backward) / 2 / A3_IMAGES, float(row[f"{name}_robust"])))
        panel.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": COLOURS[row["norm"]], "lw": 0.7})
        panel.plot(*zip(*ends, strict=True), ".", color=COLOURS[row["norm"]], markersize=3)
    for one in (one for one in results if one.protocol == "adaptive"):
        for norm in ("linf", "l2"):
            panel.plot(one.evaluations[norm] / one.n, 100 * one.robust[norm] / one.n, "s", color=COLOURS[norm])
    panel.set_title("published: AutoAttack to A3; squares: ours")


def main() -> None:
    """Print the tables; draw the picture if asked to."""
    parser = argparse.ArgumentParser(description="Robust points and gradient evaluations of protocols")
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    results = [read(path) for path in asked.results]
    print(table(results), weaker(results), sep="\n\n")
    if asked.picture:
        picture(results, asked.picture)


if __name__ == "__main__":
    main()
