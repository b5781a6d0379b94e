"""The figures that a table of methods has columns for, of an evaluation of the norms or of a suite, point by point."""

from collections.abc import Sequence
from dataclasses import dataclass

from robustctl.report.table import attack_name
from robustctl.results.suite import SuitePoints, SuiteResult
from robustctl.results.union import UnionResult, unlike, unlike_data
from robustctl.threats import NORMS

COLUMNS = ("clean", *NORMS, "average", "union")
"""The columns of an evaluation of the norms; a suite has its own."""
CORRUPTIONS = "corruptions"


@dataclass(frozen=True)
class Figures:
    """The columns that a result fills.

    Attributes:
        title: what was measured on which images.
        headings: what a column is called, by column, in their order: ``linf:8/255``.
        points: each point's share of verdicts that are right, in [0,1], by column.
        bounds: the columns whose accuracy is known to be too high.
    """

    title: str
    headings: dict[str, str]
    points: dict[str, tuple[float, ...]]
    bounds: frozenset[str]


def figures(result: UnionResult | SuiteResult) -> Figures:
    """The figures of a result."""
    return _of_suite(result) if isinstance(result, SuiteResult) else _of_union(result)


def may_compare(first: UnionResult | SuiteResult, second: UnionResult | SuiteResult) -> bool:
    """Whether two results measured the same on the same images, so that their figures may share a column."""
    if isinstance(first, UnionResult) and isinstance(second, UnionResult):
        return not unlike(first, second)
    if not isinstance(first, SuiteResult) or not isinstance(second, SuiteResult):
        return False
    return not unlike_data(first.data, second.data) and _measured(first) == _measured(second)


def _measured(result: SuiteResult) -> tuple[object, ...]:
    threats = {member.name: member.threat for member in result.members}
    groups = {group.name: sorted(group.members) for group in result.groups}
    made = result.corruptions and (result.corruptions.made, list(result.points.corrupted))
    return result.effort, threats, groups, made


def _of_union(result: UnionResult) -> Figures:
    several = ("average", "union") if len(result.norms) > 1 else ()
    points = {name: _shares([result.points.column(name)]) for name in ("clean", *result.norms)}
    if several:
        points["average"] = _shares(list(result.points.robust.values()))
        points["union"] = _shares([result.points.column("union")])
    eps: dict[str, str] = {norm: accuracy.eps_text for norm, accuracy in result.norms.items()}
    headings = {name: f"{name}:{eps[name]}" if name in eps else name for name in COLUMNS if name in points}
    title = f"{result.data.n} points of {result.data.text}, {', '.join(result.threats)}, {attack_name(result)}"
    return Figures(title, headings, points, frozenset(name for name in headings if result.is_bound(name)))


def _of_suite(result: SuiteResult) -> Figures:
    headings, points = {"clean": "clean"}, {"clean": _shares([result.points.clean])}
    flagged = {member.name for member in result.members if any(member.threat in flag for flag in result.flags)}
    bounds = set(flagged)
    for member in result.members:
        headings[member.name], points[member.name] = member.threat, _shares([result.points.of(member.name)])
    for group in result.groups:
        columns = [result.points.of(name) for name in group.members]
        union, mean = f"{group.name}-union", f"{group.name}-mean"
        headings |= {union: f"{group.name}: union", mean: f"{group.name}: mean"}
        points |= {union: _shares([[min(bits) for bits in zip(*columns, strict=True)]]), mean: _shares(columns)}
        bounds |= {union, mean} if flagged & set(group.members) else set()
    if result.corruptions is not None:
        headings[CORRUPTIONS], points[CORRUPTIONS] = CORRUPTIONS, _shares(_corrupted(result.points))
    title = f"{result.data.n} points of {result.data.text}, suite {result.suite}, {result.effort}"
    return Figures(title, headings, points, frozenset(bounds))


def _corrupted(points: SuitePoints) -> list[list[int]]:
    return [list(bits) for rows in points.corrupted.values() for bits in rows]


def _shares(columns: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Each point's mean over some columns of verdicts."""
    return tuple(sum(bits) / len(bits) for bits in zip(*columns, strict=True))
