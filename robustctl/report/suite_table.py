"""Results of suites as a plain-text table: one row a threat, one column a result."""

from collections.abc import Sequence

from robustctl.errors import RequestError
from robustctl.results.result_file import Interval
from robustctl.results.suite import Group, SuiteResult

Labelled = Sequence[tuple[str, SuiteResult]]
MISSING = "-"


def table(results: Labelled) -> str:
    """Accuracies in percent with 95 % intervals: clean, every threat, groups, corruptions; then notes.

    Raises:
        RequestError: the results are not of the same images.
    """
    _require_alike(results)
    head = ["accuracy in %", *(label for label, _ in results)]
    rows = [head, *_rows([result for _, result in results])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *_notes(results)])


def _rows(results: Sequence[SuiteResult]) -> list[list[str]]:
    rows = [["clean", *(_share(one.clean.acc, one.clean.ci95) for one in results)]]
    threats = dict.fromkeys(member.threat for one in results for member in one.members)
    for threat in threats:
        cells = []
        for one in results:
            found = next((member for member in one.members if member.threat == threat), None)
            cells.append(_share(found.acc, found.ci95) if found else MISSING)
        rows.append([threat, *cells])
    for name in dict.fromkeys(group.name for one in results for group in one.groups):
        groups = [next((group for group in one.groups if group.name == name), None) for one in results]
        rows += _group_rows(name, groups)
    return rows + _corruption_rows(results)


def _group_rows(name: str, groups: Sequence[Group | None]) -> list[list[str]]:
    return [
        [f"{name}: mean", *(_share(one.mean.mean, one.mean.ci95) if one else MISSING for one in groups)],
        [f"{name}: worst", *(f"{100 * one.worst_acc:.1f} ({one.worst})" if one else MISSING for one in groups)],
        [f"{name}: union", *(_share(one.union.acc, one.union.ci95) if one else MISSING for one in groups)],
    ]


def _corruption_rows(results: Sequence[SuiteResult]) -> list[list[str]]:
    all_of = [one.corruptions for one in results]
    if not any(all_of):
        return []
    rows = []
    for name in dict.fromkeys(each.name for one in all_of if one for each in one.each):
        cells = []
        for one in all_of:
            found = next((each for each in one.each if each.name == name), None) if one else None
            shares = " ".join(f"{100 * severity.acc:.0f}" for severity in found.severities) if found else ""
            cells.append(f"{100 * found.mean.mean:.1f} ({shares})" if found else MISSING)
        rows.append([f"{name}, severities 1-5", *cells])
    rows.append(
        [
            "corruptions by severity",
            *(" ".join(f"{100 * share:.1f}" for share in one.by_severity) if one else MISSING for one in all_of),
        ]
    )
    rows.append(["corruptions: mean", *(_share(one.mean.mean, one.mean.ci95) if one else MISSING for one in all_of)])
    errors = [f"{100 * one.mce:.1f} ({100 * one.relative_mce:+.1f})" if one else MISSING for one in all_of]
    return [*rows, ["mean corruption error (less clean error)", *errors]]


def _notes(results: Labelled) -> list[str]:
    notes = [
        "95 % intervals: sampling error of the images only. Accuracies under threats are at most these: attacks show "
        "what is broken. A mean or union of a group counts what was evaluated.",
    ]
    for label, one in results:
        notes.append(
            f"{label}: suite {one.suite}, {one.data.n} points of {one.data.text}, {one.effort}, seed {one.seed}, "
            f"{one.seconds:.0f} s on {one.device}."
        )
        if one.corruptions:
            notes.append(f"{label}: corrupted images: {one.corruptions.made}.")
        notes += [f"{label}: left out: {left.name}: {left.reason}" for left in one.left_out]
        for member in one.members:
            if member.by:
                by = ", ".join(f"{name} {n}" for name, n in member.by.items())
                notes.append(f"{label}: {member.threat} ({member.unit}): broken by {by}; {member.seconds:.0f} s")
        notes += [f"{label}: flag {flag}" for flag in one.flags]
    return notes


def _share(share: float, ends: Interval) -> str:
    return f"{100 * share:.1f} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _require_alike(results: Labelled) -> None:
    first = results[0][1].data
    for label, one in results[1:]:
        if one.data.content_sha256 != first.content_sha256:
            raise RequestError(f"{label} is of other images than {results[0][0]}; their figures do not compare")
