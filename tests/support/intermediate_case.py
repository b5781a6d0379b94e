"""A small request for intermediate-q robustness, for the tests of robustctl/intermediate."""

import dataclasses

from robustctl.intermediate.request import IntermediateRequest
from robustctl.sampling.perturbation import Perturbation


def request(distribution: str = "linf:0.1", **changes: object) -> IntermediateRequest:
    """Three orders q and 120 samples, with these fields changed."""
    perturbation = Perturbation.parse(distribution)
    usual = IntermediateRequest(
        perturbation=perturbation,
        qs=(1.0, 10.0, 100.0),
        estimator="both",
        grid="graded",
        samples=120,
        most_samples=120,
        leapfrog=2,
        chains=4,
        rhos=(0.1, 0.01),
        ball=perturbation.threat,
        seed=0,
        batch_size=64,
    )
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]
