"""One row per point: its verdict in every threat model, as CSV."""

import csv
import io
from collections.abc import Sequence

from robustctl.results.union import UnionResult
from robustctl.threats import NORMS, Norm


def render(results: Sequence[tuple[str, UnionResult]]) -> str:
    """CSV with the columns result, index (in the split), label, clean, linf, l2, l1, union.

    1 is right or robust, 0 wrong or broken; a cell is empty if that norm was not evaluated. <=1 is unbroken in a norm
    whose attacks were not all tried, because the point is broken in another norm and only the union was asked.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["result", "index", "label", "clean", *NORMS, "union"])
    for label, result in results:
        points = result.points
        blank = [""] * len(points.index)
        norms = [_column(result, norm) if norm in points.robust else blank for norm in NORMS]
        columns: list[Sequence[object]] = [points.clean, *norms, points.union()]
        for index, true_label, *verdicts in zip(points.index, points.label, *columns, strict=True):
            writer.writerow([label, index, true_label, *verdicts])
    return text.getvalue()


def _column(result: UnionResult, norm: Norm) -> list[str]:
    """The verdicts of a norm."""
    pairs = zip(result.points.robust[norm], result.points.union(), strict=True)
    return ["<=1" if robust > union and result.is_bound(norm) else str(robust) for robust, union in pairs]
