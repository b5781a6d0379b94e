"""Results as tables that can be pasted: plain text and Markdown, one column a result, one row a threat model."""

from collections.abc import Sequence

from robustctl.report.columns import columns
from robustctl.results.result_file import Accuracy, Interval
from robustctl.results.statistics import mcnemar
from robustctl.results.union import UnionResult, unlike
from robustctl.threats import NORMS

Labelled = Sequence[tuple[str, UnionResult]]
Rows = list[list[str]]
Threats = tuple[str, ...]
"""Norms and radii as written, in the order of the result."""


def before_after(results: Labelled) -> str:
    """A plain-text table; beside each result stand its change against the first, on the same points, and the exact
    paired p-value."""
    return "\n".join([columns(cells(results), rule=True), "", *footnotes(results)])


def markdown(results: Labelled) -> str:
    """The same table in Markdown."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cells(results)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join([*lines, "", *(f"{note}  " for note in footnotes(results))])


def before_and_after(before: Sequence[UnionResult], after: Sequence[UnionResult]) -> Labelled:
    """The columns of a model's evaluations, behind the ones of what it was made from."""
    named = told_apart("after" if before else "robustctl", after)
    return [*(("before", one) for one in before), *zip(named, after, strict=True)]


def cells(results: Labelled) -> Rows:
    """Header and rows of ``accuracies``; beside results that compare with the first stand change and p."""
    every = [list(column) for column in zip(*accuracies(results), strict=True)]
    shown, first = every[:2], results[0][1]
    for column, (_, result) in zip(every[2:], results[1:], strict=True):
        shown.append(column)
        if not unlike(first, result):
            pairs = [_change(name, first, result) for name, _ in _figures(results)]
            shown += [[title, *texts] for title, texts in zip(("change", "p"), zip(*pairs, strict=True), strict=True)]
    return [list(row) for row in zip(*shown, strict=True)]


def accuracies(results: Labelled) -> Rows:
    """Header and rows: clean, each norm, average, union, in percent with 95 % intervals."""
    return [
        ["accuracy in %", *(label for label, _ in results)],
        *(_row(*figure, results) for figure in _figures(results)),
    ]


def footnotes(results: Labelled) -> list[str]:
    """Notes that a reader must know: points, attack, flags, and why columns do not compare."""
    notes = [
        "95 % intervals (Wilson): sampling error of the points only. Robust accuracies are at most these: attacks show"
        " what is broken.",
    ]
    for label, result in results:
        model = "" if label == result.model else f"{result.model}, "
        notes.append(
            f"{label}: {model}{result.data.n} points of {result.data.text}, "
            f"{attack_name(result)}, seed {result.attack.seed}, {result.seconds:.0f} s on {result.device}."
        )
        notes += [f"{label}: {flag}" for flag in result.flags]
        if result.float_ties:
            verdicts = "1 verdict is" if result.float_ties == 1 else f"{result.float_ties} verdicts are"
            notes.append(f"{label}: {verdicts} within float rounding of the decision boundary.")
    for label, result in results[1:]:
        notes += [
            f"{label} does not compare with {results[0][0]}: {reason}" for reason in unlike(results[0][1], result)
        ]
    return notes


def told_apart(label: str, results: Sequence[UnionResult]) -> list[str]:
    """Column names for evaluations of one model: ``label``, and in brackets what differs between them.

    No evaluation replaces another: a reader who sees only the newest cannot know whether it was the best of several.
    If nothing differs that has a name here, they are numbered.
    """
    facets = [
        [f"{one.data.source} {one.data.split}" for one in results],
        [f"n {one.data.n}" for one in results],
        [" ".join(one.threats) for one in results],
        [attack_name(one) for one in results],
        [one.attack.precision for one in results],
        [f"seed {one.attack.seed}" for one in results],
    ]
    differing = [facet for facet in facets if len(set(facet)) > 1]
    names = [f"{label} ({', '.join(texts)})" for texts in zip(*differing, strict=True)] or [label] * len(results)
    return [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def percent(acc: float, ci95: Interval, bound: str = "") -> str:
    """``41.2 [38.0, 44.5]``; ``bound`` stands before an accuracy that is only a bound."""
    return f"{bound}{100 * acc:.1f} [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"


def attack_name(result: UnionResult) -> str:
    """The protocol, and whether only the union was asked."""
    return f"{result.attack.name}{', union only' if result.attack.union_only else ''}"


def _figures(results: Labelled) -> list[tuple[str, Threats]]:
    """The rows: a figure's name, and for an average or a union the threats that it is over.

    Each set of threats has rows of its own, so that no row mixes unions of different norms or radii. One norm alone has
    neither: its union is that norm's accuracy.
    """
    norms = [norm for norm in NORMS if any(norm in result.norms for _, result in results)]
    several = [one for one in dict.fromkeys(result.threats for _, result in results) if len(one) > 1]
    means: list[tuple[str, Threats]] = [(name, one) for name in ("average", "union") for one in several]
    return [("clean", ()), *((norm, ()) for norm in norms), *means]


def _row(name: str, threats: Threats, results: Labelled) -> list[str]:
    if threats:
        mixed = len({result.threats for _, result in results}) > 1
        title = f"{name} of {', '.join(threats)}" if mixed else name
        return [title, *(_cell(name, one, False) if one.threats == threats else "-" for _, one in results)]
    radii = {_radius(name, result) for _, result in results} - {""}
    title = f"{name}:{radii.pop()}" if len(radii) == 1 else name
    return [title, *(_cell(name, result, bool(radii)) for _, result in results)]


def _radius(name: str, result: UnionResult) -> str:
    return next((accuracy.eps_text for norm, accuracy in result.norms.items() if norm == name), "")


def _cell(name: str, result: UnionResult, with_radius: bool) -> str:
    bound = "<= " if result.is_bound(name) else ""
    if name == "average":
        return percent(result.average, result.average_ci95, bound)
    accuracy = _accuracy(name, result)
    if accuracy is None:
        return "-"
    return percent(accuracy.acc, accuracy.ci95, bound) + (f" ({name}:{_radius(name, result)})" if with_radius else "")


def _accuracy(name: str, result: UnionResult) -> Accuracy | None:
    if name in ("clean", "union"):
        return result.clean if name == "clean" else result.union
    return next((accuracy for norm, accuracy in result.norms.items() if norm == name), None)


def _change(name: str, first: UnionResult, second: UnionResult) -> list[str]:
    """Change and p-value; none between bounds, which say nothing about each other."""
    if first.is_bound(name) or second.is_bound(name):
        return ["-", "-"]
    if name == "average":
        return [f"{100 * (second.average - first.average):+.1f}", ""]
    before, after = first.points.column(name), second.points.column(name)
    return [f"{100 * (sum(after) - sum(before)) / len(after):+.1f}", p_text(mcnemar(before, after).p_value)]


def p_text(p_value: float) -> str:
    """A p-value with three digits; smaller ones as ``<0.001``."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
