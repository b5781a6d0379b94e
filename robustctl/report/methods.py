"""Results of several methods and seeds as one table: a row per method, a column per figure.

Results that were measured differently (other images, radii, protocol) never share a column: each kind has its table.
"""

import math
import statistics as stats
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.report.figures import COLUMNS, Figures, figures, may_compare
from robustctl.results.result_file import Interval
from robustctl.results.statistics import holm, mcnemar, paired_means, welch, wilson_mean
from robustctl.results.suite import SuiteResult
from robustctl.results.union import UnionResult


@dataclass(frozen=True)
class Paper:
    """A paper's figures for a method: their source, and accuracies in percent by column."""

    source: str
    accuracies: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """A result and what made its model.

    Attributes:
        method: what a row is called, e.g. the recipe's name. model: what the training started from.
        seed: of the training; None if nothing was trained.
    """

    method: str
    model: str
    seed: int | None
    result: UnionResult | SuiteResult
    paper: Paper | None = None


@dataclass(frozen=True)
class Cell:
    """One figure of a method.

    Attributes:
        mean: over the seeds, in [0,1]. sd: over at least two seeds, else None.
        ci95: of the mean, for the sampling error of the points.
        is_bound: the figure is an upper bound.
        points: each point's mean over the seeds, in [0,1]. by_seed: the accuracy of each seed.
        best: no other row of the column has more.
        p: against the chosen row.
    """

    mean: float
    sd: float | None
    ci95: Interval
    is_bound: bool
    points: tuple[float, ...]
    by_seed: tuple[float, ...]
    best: bool = False
    p: float | None = None


@dataclass
class Row:
    """A method: its name, the seeds of its results, its figures by column, and a paper's."""

    name: str
    seeds: list[int | None]
    cells: dict[str, Cell]
    paper: Paper | None = None


@dataclass
class MethodTable:
    """Rows that may be compared.

    Attributes:
        title: what was measured on which images.
        headings: what a column is called, by column: ``linf:8/255``.
        against: the row that the p-values are about.
    """

    title: str
    headings: dict[str, str]
    rows: list[Row]
    against: str | None = None
    notes: list[str] = field(default_factory=list)


def build(
    scored: Sequence[Scored], columns: Sequence[str] | None = None, by: str = "method", against: str | None = None
) -> list[MethodTable]:
    """The tables of some results, one per way of measuring.

    Args:
        columns: names of figures; those that a table does not have are left out of it. Without names it has all.
        by: ``method`` joins the seeds of a method in a row; ``result`` gives each result its row.
        against: the name of a row; the others get p-values against it.

    Raises:
        RequestError: there is no row ``against``, or no result has one of the columns.
    """
    groups: list[list[Scored]] = []
    for one in scored:
        group = next((group for group in groups if may_compare(group[0].result, one.result)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    known = list(dict.fromkeys(name for group in groups for name in figures(group[0].result).headings))
    for name in columns or ():
        if name not in known and name not in COLUMNS:  # a norm that was not evaluated is left out
            raise unknown("column", name, known)
    made = [_table(group, columns, by) for group in groups]
    if against is not None:
        names = list(dict.fromkeys(row.name for table in made for row in table.rows))
        if against not in names:
            raise RequestError(f"--against {against}: there is no such row; the rows are {', '.join(names)}")
        for table in made:
            _compare(table, against)
    return made


def _table(group: Sequence[Scored], columns: Sequence[str] | None, by: str) -> MethodTable:
    first = figures(group[0].result)
    headings = {name: text for name, text in first.headings.items() if columns is None or name in columns}
    rows = [_row(name, members, list(headings)) for name, members in _rows(group, by).items()]
    made = MethodTable(first.title, headings, rows)
    for name in headings:
        _mark_best(rows, name)
    flags = [f"{one.method}, seed {one.seed}: {flag}" for one in group for flag in one.result.flags]
    made.notes = list(dict.fromkeys(flags))
    return made


def _rows(group: Sequence[Scored], by: str) -> dict[str, list[Scored]]:
    """The members of each row; models are named if there are several."""
    several = len({one.model for one in group}) > 1
    found: dict[str, list[Scored]] = {}
    for one in group:
        name = f"{one.model} {one.method}" if several and one.model != one.method else one.method
        if by == "result" and one.seed is not None:
            name += f", seed {one.seed}"
        members = found.setdefault(name, [])
        if any(other.seed == one.seed for other in members):  # two results of one seed are no two seeds
            name = next(f"{name} ({i})" for i in range(2, len(group) + 2) if f"{name} ({i})" not in found)
            members = found.setdefault(name, [])
        members.append(one)
    return found


def _row(name: str, members: Sequence[Scored], columns: Sequence[str]) -> Row:
    measured = [figures(one.result) for one in members]
    cells = {column: _cell(column, measured) for column in columns}
    return Row(name, [one.seed for one in members], cells, next((one.paper for one in members if one.paper), None))


def _cell(column: str, measured: Sequence[Figures]) -> Cell:
    by_point = [one.points[column] for one in measured]
    points = tuple(math.fsum(values) / len(values) for values in zip(*by_point, strict=True))
    by_seed = tuple(math.fsum(values) / len(values) for values in by_point)
    return Cell(
        math.fsum(by_seed) / len(by_seed),
        stats.stdev(by_seed) if len(by_seed) > 1 else None,
        wilson_mean(points),
        any(column in one.bounds for one in measured),
        points,
        by_seed,
    )


def _mark_best(rows: Sequence[Row], column: str) -> None:
    """Mark the largest figures of a column, but not if the largest is a bound: the true figure may be lower."""
    if len(rows) < 2:
        return
    most = max(round(1000 * row.cells[column].mean) for row in rows)
    for row in rows:
        cell = row.cells[column]
        if not cell.is_bound and round(1000 * cell.mean) == most:
            row.cells[column] = replace(cell, best=True)


def _compare(made: MethodTable, against: str) -> None:
    base = next((row for row in made.rows if row.name == against), None)
    if base is None:
        return
    made.against = against
    for column in made.headings:
        others = [
            row
            for row in made.rows
            if row is not base and not row.cells[column].is_bound and not base.cells[column].is_bound
        ]
        found = holm([p_value(base.cells[column], row.cells[column]) for row in others])
        for row, p in zip(others, found, strict=True):
            row.cells[column] = replace(row.cells[column], p=p)


def p_value(first: Cell, second: Cell) -> float:
    """Whether two figures on the same points differ, beyond chance in the points and beyond chance in the seeds.

    One seed each: McNemar's exact test (for the average, a paired t-test over the points). Several: the larger p of a
    paired t-test over the points' means and of Welch's t-test over the seeds.
    """
    bits = all(value in (0.0, 1.0) for value in (*first.points, *second.points))
    if bits and len(first.by_seed) == len(second.by_seed) == 1:
        return mcnemar([int(one) for one in first.points], [int(one) for one in second.points]).p_value
    over_points = paired_means(first.points, second.points)
    if len(first.by_seed) < 2 or len(second.by_seed) < 2:
        return over_points
    return max(over_points, welch(first.by_seed, second.by_seed))
