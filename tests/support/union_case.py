"""An evaluation of the linear classifier in three norms, for the tests of robustctl/evaluation/union.py."""

import torch

from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.threats import Threat

CPU = torch.device("cpu")
THREATS = tuple(map(Threat.parse, ("linf:0.04", "l2:0.1", "l1:0.3")))
STANDARD = UnionRequest(THREATS, "standard", seed=0, batch_size=50)


def evaluate(model, spec, data, request, path, **more):
    """The result of all norms; verdicts lie in the store at ``path``."""
    return evaluate_union(model, spec, data, request, name="m", device=CPU, store_path=path, **more)
