"""Results as one self-contained HTML page: no script, no outside file, every text escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import q_section, style, table
from robustctl.report.style import LEFT, WIDTH
from robustctl.results.statistics import mcnemar
from robustctl.results.union import Accuracy, UnionResult, unlike
from robustctl.threats import NORMS

Labelled = Sequence[tuple[str, UnionResult]]

ROW = 17  # of the chart, in its own units


def render(results: Labelled, curves: q_section.Labelled = ()) -> str:
    """The page of at least one result or curve.

    Args:
        results: of unions; the first is what the others are compared with.
        curves: intermediate-q results.
    """
    parts = [
        "<h1>Robustness in the union of threat models</h1>" if results else "<h1>Intermediate-q robustness</h1>",
        *(_union(results) if results else []),
        *([q_section.render(curves)] if curves else []),
        "<h2>How each was measured</h2>",
        *(_details(label, result) for label, result in results),
        *(_q_details(label, result) for label, result in curves),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>robustctl report</title>\n<style>{style.SHEET}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _union(results: Labelled) -> list[str]:
    return [
        f'<p class="soft">{len(results)} result{"s" * (len(results) > 1)}; accuracies in percent with 95 % Wilson '
        "intervals, which hold the sampling error of the points only. Robust accuracies hold for the protocol that "
        "found them: the true ones are at most that.</p>",
        "<h2>Accuracies</h2>",
        style.table(_with_protocols(results)),
        _chart(results),
        *([_comparisons(results)] if len(results) > 1 else []),
    ]


def _with_protocols(results: Labelled) -> table.Rows:
    header, *rows = table.columns(results)
    return [header, ["protocol", *(_protocol(result) for _, result in results)], *rows]


def _protocol(result: UnionResult) -> str:
    """The protocol, and ``estimate`` where it is too weak for more."""
    return table.attack_name(result) + ", estimate" * any(flag.startswith("estimate") for flag in result.flags)


def _threats(result: UnionResult) -> frozenset[tuple[str, float]]:
    return frozenset((norm, accuracy.eps) for norm, accuracy in result.norms.items())


def _figures(result: UnionResult) -> list[tuple[str, Accuracy]]:
    """Name and accuracy of each row of the chart."""
    named: list[tuple[str, Accuracy]] = [("clean", result.clean)]
    named += [(norm, result.norms[norm]) for norm in NORMS if norm in result.norms]
    return [*named, ("union", result.union)] if len(result.norms) > 1 else named


def _chart(results: Labelled) -> str:
    """Points with their intervals, grouped by threat model, one colour a result."""
    names = ["clean", *(norm for norm in NORMS if any(norm in result.norms for _, result in results))]
    # Unions of other norms or radii are other figures and stand in the table alone.
    if len({_threats(result) for _, result in results}) == 1 and len(results[0][1].norms) > 1:
        names.append("union")
    group = ROW * len(results) + 14
    height = group * len(names) + 30
    marks = [_grid(height)]
    for row, name in enumerate(names):
        top = row * group + 8
        marks.append(f'<text x="{LEFT - 12}" y="{top + group / 2}" text-anchor="end">{name}</text>')
        for i, (_, result) in enumerate(results):
            y = top + ROW * (i + 0.7)
            marks += [_mark(acc, result.is_bound(name), y, i) for at, acc in _figures(result) if at == name]
    return style.chart([label for label, _ in results], marks, height)


def _grid(height: int) -> str:
    lines = []
    for tick in range(0, 101, 20):
        x = LEFT + WIDTH * tick / 100
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 22}"/>')
        lines.append(f'<text class="soft" x="{x}" y="{height - 6}" text-anchor="middle">{tick} %</text>')
    return "".join(lines)


def _mark(accuracy: Accuracy, is_bound: bool, y: float, i: int) -> str:
    """A point with its interval; an upper bound is a hollow point beside the sign ``<=``."""
    low, at, high = (LEFT + WIDTH * value for value in (accuracy.ci95[0], accuracy.acc, accuracy.ci95[1]))
    colour = style.colour(i)
    sign = "&lt;= " if is_bound else ""
    fill = "none" if is_bound else colour
    return (
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{at:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}">'
        f"<title>{sign}{100 * accuracy.acc:.1f} %</title></circle>"
        + (f'<text x="{high + 6:.1f}" y="{y + 4:.1f}">{sign.strip()}</text>' if is_bound else "")
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
    for name in ("clean", *base.norms, *(["union"] if len(base.norms) > 1 else [])):
        if base.is_bound(name) or result.is_bound(name):
            lines.append(
                f'<tr><td>{escape(label)}</td><td>{name}</td><td colspan="4" class="words">upper bounds do not compare'
                "</td></tr>"
            )
            continue
        before, after = base.points.column(name), result.points.column(name)
        paired = mcnemar(before, after)
        change = 100 * (sum(after) - sum(before)) / len(after)
        p_text = "&lt;0.001" if paired.p_value < 0.001 else f"{paired.p_value:.3f}"
        cells = (escape(label), name, f"{change:+.1f}", str(paired.only_first), str(paired.only_second), p_text)
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "".join(lines)


def _details(label: str, result: UnionResult) -> str:
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
    return _section(label, result.flags, facts)


def _q_details(label: str, result: IntermediateResult) -> str:
    kinds = {"path": "path sampling", "mc": "Monte Carlo"}
    used = {one.estimator for one in result.estimates}
    facts = {
        "model": result.model,
        "weights": result.weights_sha256,
        "images": f"{result.data.n} of {result.data.text}",
        "list of images": result.data.index_sha256,
        "perturbations": result.distribution.text,
        "estimated by": f"{' and '.join(name for kind, name in kinds.items() if kind in used)}, "
        f"{max(one.samples for one in result.estimates)} samples an image, seed {result.seed}",
        "time": f"{result.seconds:.0f} s on {result.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    return _section(f"{label}, {result.distribution.text}", result.flags, facts)


def _section(label: str, flags: Iterable[str], facts: dict[str, str]) -> str:
    warnings = "".join(f'<p class="flag">{escape(flag)}</p>' for flag in flags)
    lines = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in facts.items())
    return f'<section class="result"><h3>{escape(label)}</h3>{warnings}<dl>{lines}</dl></section>'
