"""Figures in the hub's format for its leaderboards, ``.eval_results/*.yaml``, as the hub's own library writes them.

The hub shows such figures only of benchmarks that are registered with it, and no framework for adversarial robustness
is registered yet.
"""

from collections.abc import Sequence

import yaml

from robustctl.errors import RequestError
from robustctl.publish.figures import figures
from robustctl.publish.redact import hub_dataset
from robustctl.results.union import UnionResult

PATH = ".eval_results/robustctl.yaml"


def content(results: Sequence[UnionResult]) -> bytes:
    """The file for evaluations as they are published; accuracies are in [0,1].

    Raises:
        RequestError: the images of none of them are on the hub.
    """
    from robustctl.hub.client import eval_results

    entries = [
        {
            "dataset": {"id": result.data.source, "task_id": figure.name.replace(", ", " ")},
            "value": figure.value,
            "notes": f"at most; {result.attack.name}, {result.data.n} points of split {result.data.split}, "
            f"95 % interval {figure.ci95[0]:.4f} to {figure.ci95[1]:.4f}",
        }
        for result in results
        if hub_dataset(result.data.source)
        for figure in figures(result)
    ]
    if not entries:
        raise RequestError("--eval-results: the hub knows results on its own data sets only, and there are none here")
    return yaml.safe_dump(eval_results(entries), sort_keys=False, allow_unicode=True).encode()
