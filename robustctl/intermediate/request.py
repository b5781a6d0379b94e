"""What is asked of an intermediate-q evaluation."""

from dataclasses import dataclass
from typing import Literal

from robustctl.errors import RequestError
from robustctl.sampling.estimators import GridName, plan
from robustctl.sampling.perturbation import Perturbation
from robustctl.threats import Threat

Estimator = Literal["path", "mc", "both"]


@dataclass(frozen=True)
class IntermediateRequest:
    """What is measured, apart from the model and the images.

    Attributes:
        perturbation: the distribution mu.
        qs: orders, each finite and >= 1.
        estimator: path sampling, Monte Carlo, or both.
        grid: ``graded`` (the default estimator), or ``thesis`` (even steps in t, for comparison).
        samples: recorded samples an image and estimator, >= 2.
        leapfrog: gradients a sample of HMC.
        chains: independent chains an image, >= 2.
        rhos: tolerances of ProbAcc, in (0,1).
        ball: where attacks search the adversarial end; None: nowhere.
        seed: any whole number >= 0.
        batch_size: images a model evaluation.
    """

    perturbation: Perturbation
    qs: tuple[float, ...]
    estimator: Estimator
    grid: GridName
    samples: int
    leapfrog: int
    chains: int
    rhos: tuple[float, ...]
    ball: Threat | None
    seed: int
    batch_size: int

    def require(self) -> None:
        """Raise RequestError for values out of range, named as the command line names them."""
        for q in self.qs:
            if not 1 <= q < float("inf"):
                raise RequestError(f"--intermediate-q {q:g}: q must be at least 1 (1 is the mean, larger is stricter)")
        for rho in self.rhos:
            if not 0 < rho < 1:
                raise RequestError(f"--probacc {rho:g}: rho must lie between 0 and 1, both excluded")
        for name, value, least in (
            ("samples", self.samples, 2),
            ("leapfrog", self.leapfrog, 1),
            ("chains", self.chains, 2),
        ):
            if value < least:
                raise RequestError(f"--{name} {value}: at least {least}")
        if self.estimator != "mc":
            plan(self.qs, self.samples, self.chains, self.grid)
