"""Figures in the hub's format for its leaderboards, ``.eval_results/*.yaml``, as the hub's own library writes them.

The hub shows such figures only of benchmarks that are registered with it, and no framework for adversarial robustness
is registered yet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from robustctl.errors import RequestError
from robustctl.hub.names import EVAL_RESULTS, REPO_ID
from robustctl.publish.figures import figures
from robustctl.reading import parse_yaml, read_text
from robustctl.results.union import UnionResult


def content(results: Sequence[UnionResult]) -> bytes:
    """The file for evaluations as they are published; accuracies are in [0,1].

    Raises:
        RequestError: the images of none of them are on the hub.
    """
    entries = _entries(results)
    if not entries:
        raise RequestError("--eval-results: the hub knows results on its own data sets only, and there are none here")
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).encode()


def _entries(results: Sequence[UnionResult]) -> list[dict[str, Any]]:
    from robustctl.hub.client import eval_results

    found = [
        {
            "dataset": {"id": result.data.source, "task_id": figure.name.replace(", ", " ")},
            "value": figure.value,
            "notes": f"at most; {result.attack.name}, {result.data.n} points of split {result.data.split}, "
            f"95 % interval {figure.ci95[0]:.4f} to {figure.ci95[1]:.4f}",
        }
        for result in results
        if REPO_ID.fullmatch(result.data.source)
        for figure in figures(result)
    ]
    return eval_results(found)


def contradictions(path: Path, results: Sequence[UnionResult]) -> list[str]:
    """The entries of a published file that do not follow from the results beside it, and those that it lacks."""
    try:
        shown = parse_yaml(read_text(path), EVAL_RESULTS)
    except RequestError as error:
        return [str(error)]
    wanted = _entries(results)
    if not isinstance(shown, list):
        return [f"{EVAL_RESULTS} holds no list of figures"]
    faults = [f"{EVAL_RESULTS} says {one!r}, which no result says" for one in shown if one not in wanted]
    return faults + [f"{EVAL_RESULTS} lacks {one!r}, which a result says" for one in wanted if one not in shown]
