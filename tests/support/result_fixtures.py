"""A made result for every report."""

import math

import pytest

from robustctl.intermediate.results import IntermediateResult
from robustctl.results.result_file import Accuracy


@pytest.fixture(scope="session")
def intermediate_result() -> IntermediateResult:
    """A made intermediate-q result of two images."""
    share = Accuracy.of([1, 0]).model_dump()

    def estimate(kind: str, q: float, value: float) -> dict[str, object]:
        path = kind == "path"
        return {
            "q": q,
            "estimator": kind,
            "grid": "graded" if path else None,
            "value": value,
            "ci95": (value / 2, value * 2),
            "ci95_sampling": (value * 0.9, value * 1.1),
            "samples": 10,
            "leapfrog": 10 if path else 0,
            "chains": 4 if path else None,
            "acceptance": 0.65 if path else None,
            "ess": 12.3,
            "chain_gap": 0.01 if path else None,
            "lag": 0.02 if path else None,
            "log_z": [math.log(value)] * 2,
        }

    return IntermediateResult.model_validate(
        {
            "model": "tiny",
            "weights_sha256": "0",
            "data": {"source": "made", "split": "test", "n": 2, "index_sha256": "0"},
            "distribution": {"kind": "linf", "eps": 0.1, "text": "linf:0.1"},
            "clean": share,
            "clean_loss": {"value": 0.1, "ci95": (0.0, 0.2)},
            "estimates": [estimate(kind, q, v) for kind in ("mc", "path") for q, v in ((1, 0.2), (100, 0.4))],
            "random": {"acc": 0.5, "ci95": (0.1, 0.9)},
            "probacc": [{**share, "rho": 0.1}],
            "adversarial_loss": {
                "value": 0.9,
                "ci95": (0.5, 1.3),
                "ball": "linf:0.1",
                "pgd": 0.8,
                "apgd": 0.9,
                "accuracy": share,
            },
            "seed": 0,
            "cost": {"recorded": 100, "burn_in": 50, "attacks": 150, "forwards": 20},
            "flags": ["made: for this test"],
            "seconds": 1.5,
            "device": "cpu",
            "versions": {},
        }
    )
