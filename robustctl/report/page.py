"""Results as one self-contained HTML page: no script, no outside file, every text escaped."""

from collections.abc import Iterator, Sequence

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import q_section, style, table
from robustctl.report.style import LEFT, WIDTH, colour, short_names
from robustctl.results.result_file import Accuracy
from robustctl.results.statistics import mcnemar
from robustctl.results.union import UnionResult, unlike
from robustctl.threats import NORMS

Labelled = Sequence[tuple[str, UnionResult]]

ROW = 17  # of the chart, in its own units
OPEN = 3
"""With more results than this, the facts about each are folded away until they are clicked; its flags are not."""


def render(results: Labelled, curves: q_section.Labelled = (), plain: Sequence[tuple[str, str]] = ()) -> str:
    """The page of at least one result, curve or plain table.

    Args:
        results: of unions; the first is what the others are compared with.
        curves: intermediate-q results.
        plain: titles and plain-text tables, of suites and of accuracy against radius.
    """
    return style.fill(
        "page.html",
        OPEN=OPEN,
        union=_union(results) if results else None,
        q_section=q_section.render(curves) if curves else "",
        plain=plain,
        details=[
            *(_details(label, result) for label, result in results),
            *(_q_details(label, result) for label, result in curves),
        ],
    )


def _union(results: Labelled) -> dict[str, object]:
    """The values of the template for results of unions: a table, a chart, and each result against the first."""
    (_, base), *others = results
    groups = _groups(results)
    return {
        "count": len(results),
        "rows": _by_model(results),
        "words": [_protocol(result) for _, result in results],
        "labels": [label for label, _ in results],
        "short": short_names([label for label, _ in results]),
        "groups": groups,
        "height": _group_height(results) * len(groups) + 30,
        "comparisons": [{"label": label, "rows": list(_comparison(base, result))} for label, result in others],
    }


def _by_model(results: Labelled) -> table.Rows:
    """A row per model, a column per figure."""
    _, *figures = table.accuracies(results)
    models = zip(results, *(row[1:] for row in figures), strict=True)
    return [["model", *(row[0] for row in figures)], *([label, *cells] for (label, _), *cells in models)]


def _protocol(result: UnionResult) -> str:
    """The protocol, and ``estimate`` if it is too weak for more."""
    return table.attack_name(result) + ", estimate" * any(flag.startswith("estimate") for flag in result.flags)


def _threats(result: UnionResult) -> frozenset[tuple[str, float]]:
    return frozenset((norm, accuracy.eps) for norm, accuracy in result.norms.items())


def _figures(result: UnionResult) -> list[tuple[str, Accuracy]]:
    """Name and accuracy of each row of the chart."""
    named: list[tuple[str, Accuracy]] = [("clean", result.clean)]
    named += [(norm, result.norms[norm]) for norm in NORMS if norm in result.norms]
    return [*named, ("union", result.union)] if len(result.norms) > 1 else named


def _group_height(results: Labelled) -> int:
    return ROW * len(results) + 14


def _groups(results: Labelled) -> list[dict[str, object]]:
    """Points with their intervals, grouped by threat model, one colour a result."""
    names = ["clean", *(norm for norm in NORMS if any(norm in result.norms for _, result in results))]
    # Unions of other norms or radii are other figures and stand in the table alone.
    if len({_threats(result) for _, result in results}) == 1 and len(results[0][1].norms) > 1:
        names.append("union")
    height = _group_height(results)
    groups: list[dict[str, object]] = []
    for row, name in enumerate(names):
        top = row * height + 8
        marks = [
            _mark(accuracy, result.is_bound(name), top + ROW * (i + 0.7), i)
            for i, (_, result) in enumerate(results)
            for at, accuracy in _figures(result)
            if at == name
        ]
        groups.append({"name": name, "middle": top + height / 2, "marks": marks})
    return groups


def _mark(accuracy: Accuracy, is_bound: bool, y: float, i: int) -> dict[str, object]:
    """A point with its interval, in the chart's own units."""
    low, at, high = (LEFT + WIDTH * value for value in (accuracy.ci95[0], accuracy.acc, accuracy.ci95[1]))
    percent = f"{100 * accuracy.acc:.1f}"
    return {"low": low, "at": at, "high": high, "y": y, "is_bound": is_bound, "percent": percent, "colour": colour(i)}


def _comparison(base: UnionResult, result: UnionResult) -> Iterator[list[str]]:
    """Rows of five cells; if a row has fewer, its last cell is a sentence that takes the place of the figures."""
    if reasons := unlike(base, result):
        yield [f"does not compare: {'; '.join(reasons)}"]
        return
    for name in ("clean", *base.norms, *(["union"] if len(base.norms) > 1 else [])):
        if base.is_bound(name) or result.is_bound(name):
            yield [name, "upper bounds do not compare"]
            continue
        before, after = base.points.column(name), result.points.column(name)
        paired = mcnemar(before, after)
        change = 100 * (sum(after) - sum(before)) / len(after)
        p_text = table.p_text(paired.p_value)
        yield [name, f"{change:+.1f}", str(paired.only_first), str(paired.only_second), p_text]


def _details(label: str, result: UnionResult) -> dict[str, object]:
    rounded = ", ".join(
        f"{norm} {'<= ' * accuracy.upper_bound}{100 * accuracy.acc_8bit:.1f}"
        for norm, accuracy in result.norms.items()
        if accuracy.acc_8bit is not None
    )
    facts = {
        "model": result.model,
        "weights": result.weights_sha256,
        "images": f"{result.data.n} of {result.data.text}",
        "list of images": result.data.index_sha256,
        "attack": f"{table.attack_name(result)}, seed {result.attack.seed}, {result.attack.precision}",
        "families": result.attack.protocol,
        "8-bit x_adv": f"{rounded} % when every x_adv is rounded towards x to 8-bit pixels"
        if rounded
        else "not measured",
        "float ties": f"{result.float_ties} verdicts so close that rounding could turn them",
        "time": f"{result.seconds:.0f} s on {result.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    return {"title": label, "flags": result.flags, "facts": facts}


def _q_details(label: str, result: IntermediateResult) -> dict[str, object]:
    kinds = {"path": "path sampling", "ais": "annealed importance sampling", "mc": "Monte Carlo"}
    used = {one.estimator for one in result.estimates}
    facts = {
        "model": result.model,
        "weights": result.weights_sha256,
        "images": f"{result.data.n} of {result.data.text}",
        "list of images": result.data.index_sha256,
        "perturbations": result.distribution.text,
        "estimated by": f"{' and '.join(name for kind, name in kinds.items() if kind in used)}, "
        f"{max(one.samples for one in result.estimates)} samples per image (median), seed {result.seed}",
        "time": f"{result.seconds:.0f} s on {result.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    return {"title": f"{label}, {result.distribution.text}", "flags": result.flags, "facts": facts}
