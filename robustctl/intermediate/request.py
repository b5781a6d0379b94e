"""The request for an intermediate-q evaluation."""

from dataclasses import dataclass
from typing import Literal

from robustctl.errors import RequestError
from robustctl.intermediate.measure import Kind
from robustctl.sampling.estimators import GridName, plan
from robustctl.sampling.perturbation import Perturbation
from robustctl.threats import Threat

Estimator = Literal["path", "mc", "ais", "both", "all"]
KINDS: dict[Estimator, tuple[Kind, ...]] = {
    "path": ("path",),
    "mc": ("mc",),
    "ais": ("ais",),
    "both": ("mc", "path"),
    "all": ("mc", "path", "ais"),
}
GROWTH = 4  # a run of the chains has this many times the samples of the one before


@dataclass(frozen=True)
class IntermediateRequest:
    """The request apart from the model and the images.

    Attributes:
        perturbation: the distribution mu.
        qs: orders, each finite and >= 1.
        estimator: path sampling, Monte Carlo, annealed importance sampling, the first two, or all.
        grid: ``graded`` (the default estimator), or ``thesis`` (even steps in t, for comparison).
        samples: recorded samples per image and estimator, >= 2.
        most_samples: of all runs of an image's chains together, >= samples.
        leapfrog: gradients per sample of HMC.
        chains: independent chains per image, >= 2.
        rhos: tolerances of ProbAcc, in (0,1).
        ball: the ball in which attacks search the adversarial end; None: they do not search.
        seed: any whole number >= 0.
        batch_size: images per model evaluation.
    """

    perturbation: Perturbation
    qs: tuple[float, ...]
    estimator: Estimator
    grid: GridName
    samples: int
    most_samples: int
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
        if self.most_samples < self.samples:
            raise RequestError(f"--most-samples {self.most_samples}: at least --samples, {self.samples}")
        if "path" in self.kinds:
            plan(self.qs, self.samples, self.chains, self.grid)
        if "ais" in self.kinds:
            plan(self.qs, self.samples, self.chains, "thesis")

    @property
    def unread(self) -> set[str]:
        """Names of the options that this request does not read."""
        unread: set[str] = set()
        if self.kinds == ("mc",):
            unread |= {"grid", "leapfrog", "chains", "most_samples"}
        if "path" not in self.kinds:
            unread |= {"grid"}
        if self.grid == "thesis" and "ais" not in self.kinds:
            unread |= {"most_samples"}
        if self.perturbation.kind == "spatial":
            unread |= {"leapfrog"}
        return unread

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The estimators that are run."""
        return KINDS[self.estimator]
