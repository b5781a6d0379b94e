"""One row a point: its verdict in every threat model, as CSV."""

import csv
import io
from collections.abc import Sequence

from robustctl.results import UnionResult
from robustctl.threats import NORMS


def render(results: Sequence[tuple[str, UnionResult]]) -> str:
    """CSV with the columns result, index (in the split), label, clean, linf, l2, l1, union.

    1 is right or robust, 0 wrong or broken, empty where that norm was not evaluated.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["result", "index", "label", "clean", *NORMS, "union"])
    for label, result in results:
        points = result.points
        blank = [""] * len(points.index)
        columns = [points.clean, *(points.robust.get(norm, blank) for norm in NORMS), points.union()]
        for index, true_label, *verdicts in zip(points.index, points.label, *columns, strict=True):
            writer.writerow([label, index, true_label, *verdicts])
    return text.getvalue()
