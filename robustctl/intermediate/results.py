"""The findings of an intermediate-q evaluation: the JSON schema ``robustctl.intermediate/1``. No torch here."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from robustctl.intermediate.measure import Kind
from robustctl.results.result_file import TINY, Accuracy, Bit, Frozen, ResultFile, Share, read_as
from robustctl.results.statistics import student95, wilson, wilson_mean
from robustctl.threats import parse_eps

SCHEMA = "robustctl.intermediate/1"
LARGEST = 700.0  # a log of more than that has no exponential in float64
Loss = Annotated[float, Field(ge=0)]


class MeanLoss(Frozen):
    """A loss averaged over images, in nats, and the 95 % interval over images."""

    value: Loss
    ci95: tuple[float, float]

    @classmethod
    def of(cls, losses: Sequence[float]) -> "MeanLoss":
        """The mean of a non-empty list; the interval of a single image has no width."""
        mean, half = mean_and_half(losses)
        return cls(value=mean, ci95=(max(0.0, mean - half), mean + half))


class MeanShare(Frozen):
    """A share in [0,1] of random perturbations that are classified rightly, averaged over images."""

    acc: Share
    ci95: tuple[Share, Share]


class DistributionInfo(Frozen):
    """The distribution of perturbations. ``eps`` is a ball's radius, ``sigma`` a standard deviation."""

    kind: Literal["linf", "l2", "gaussian", "spatial"]
    eps: float | None = None
    sigma: float | None = None
    text: str


class QEstimate(MeanLoss):
    """Z_q = E[loss^q]^(1/q), estimated image by image and averaged.

    Attributes:
        ci95: over images and chains: the mean over all images like these lies in it.
        ci95_sampling: over chains (or samples) alone: the mean over exactly these images lies in it.
        samples, leapfrog: recorded samples per image, gradients each (0 if none are needed).
        acceptance: of the chains' proposals; None for Monte Carlo.
        ess: median over images of the independent samples that would be as good.
        chain_gap: difference of the averages that the first two chains give alone; None for Monte Carlo.
        lag: half the difference between annealing down and up, or how far a mean of few weights falls short; None for
            others.
        bound: of annealed importance sampling alone: with 95 % probability the mean of Z_q over these images is larger.
        log_z, log_z_half: of each image, log Z_q and half the width of its 95 % interval; older results lack the width.
        samples_images, ess_images: of each image, its recorded samples and the independent ones that would be as good;
            ``samples`` and ``ess`` are their medians. Older results lack them.
    """

    q: Annotated[float, Field(ge=1)]
    estimator: Kind
    grid: Literal["graded", "thesis"] | None
    ci95_sampling: tuple[float, float]
    samples: int
    leapfrog: int
    chains: int | None
    acceptance: Share | None
    ess: float
    chain_gap: float | None
    lag: float | None
    bound: Loss | None = None
    log_z: list[float]
    log_z_half: list[float] | None = None
    samples_images: list[int] | None = None
    ess_images: list[float] | None = None

    def require_intervals(self, name: str) -> None:
        """Raise ValueError if the intervals do not follow from the images' values, half-widths and the lag.

        The lag of some estimators is not in the file; then the intervals have bounds alone.
        """
        z, half = [math.exp(min(one, LARGEST)) for one in self.log_z], self.log_z_half or []
        _, over_images = mean_and_half(z)
        errors = [value * one for value, one in zip(z, half, strict=True)]
        apart, together = math.hypot(*errors) / len(z), math.fsum(errors) / len(z)
        over_chains, width = self.ci95_sampling[1] - self.value, self.ci95[1] - self.value
        lag = abs(self.lag) if self.lag is not None else None
        most = math.hypot(apart, together if lag is None else lag)
        if not (lag or 0.0) - TINY <= over_chains <= most + TINY * max(1.0, most):
            raise ValueError(f"{name}.ci95_sampling does not follow from the half-widths of its images")
        least, largest = max(over_images, over_chains), math.hypot(over_images, over_chains)
        if lag is not None:
            least = largest = max(math.hypot(over_images, lag), over_chains)
        slack = TINY * max(1.0, largest)
        if not least - slack <= width <= largest + slack:
            raise ValueError(f"{name}.ci95 does not follow from the values of its images")
        for which, ends in (("ci95_sampling", self.ci95_sampling), ("ci95", self.ci95)):
            _require(f"{name}.{which}.0", ends[0], max(0.0, 2 * self.value - ends[1]))

    @property
    def columns(self) -> list[Sequence[float]]:
        """Its content about each image."""
        held = (self.log_z, self.log_z_half, self.samples_images, self.ess_images)
        return [column for column in held if column is not None]

    @property
    def name(self) -> str:
        """``path q=100`` and the like."""
        return f"{self.estimator} q={self.q:g}"


class AdversarialLoss(MeanLoss):
    """The end of the scale, q = infinity: for each image the largest loss of PGD and APGD, or (spatial) any sample's.

    Attributes:
        ball: what was searched, ``linf:8/255``; ``samples`` for spatial transformations.
        pgd, apgd: mean losses of each attack alone, None if they do not apply.
        accuracy: images that none of them turns.
    """

    ball: str
    pgd: Loss | None
    apgd: Loss | None
    accuracy: Accuracy


class ProbAccuracy(Accuracy):
    """ProbAcc(rho): images classified rightly under at least 1 - rho of the random perturbations."""

    rho: Annotated[float, Field(gt=0, lt=1)]


class Images(Frozen):
    """The measurements on each image; the means and shares follow from them.

    Attributes:
        clean, clean_loss: 1 if it is right without a perturbation, and its loss then, in nats.
        right: the share of random perturbations that are classified rightly; ``draws`` of them each.
        largest_loss, unbroken: the largest loss that was found, and 1 if nothing turned it; None if not searched.
    """

    clean: list[Bit]
    clean_loss: list[Loss]
    right: list[Share]
    draws: Annotated[int, Field(ge=1)]
    largest_loss: list[Loss] | None
    unbroken: list[Bit] | None

    @property
    def columns(self) -> list[Sequence[float]]:
        """Its content about each image."""
        held = (self.clean, self.clean_loss, self.right, self.largest_loss, self.unbroken)
        return [column for column in held if column is not None]

    @property
    def random(self) -> MeanShare:
        """The mean share over images."""
        return MeanShare(acc=math.fsum(self.right) / len(self.right), ci95=wilson_mean(self.right))

    def probacc(self, rho: float) -> Accuracy:
        """The images that are right under at least 1 - rho of the random perturbations."""
        return Accuracy.of([int(one >= 1 - rho - TINY / self.draws) for one in self.right])


class Cost(Frozen):
    """Model evaluations per image: with gradient in recorded moves, in discarded moves and in attacks, and without."""

    recorded: int
    burn_in: int
    attacks: int
    forwards: int


class IntermediateResult(ResultFile):
    """One intermediate-q evaluation, as written by ``--json``. ``flags`` are warnings to a reader."""

    schema_: Literal["robustctl.intermediate/1"] = Field(default="robustctl.intermediate/1", alias="schema")
    distribution: DistributionInfo
    loss: Literal["cross-entropy"] = "cross-entropy"
    clean: Accuracy
    clean_loss: MeanLoss
    estimates: Annotated[list[QEstimate], Field(min_length=1)]
    random: MeanShare
    probacc: list[ProbAccuracy]
    adversarial_loss: AdversarialLoss | None
    seed: int
    cost: Cost
    images: Images | None = None
    flags: list[str]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _covers_all_points(self) -> "IntermediateResult":
        tables: list[QEstimate | Images] = [*self.estimates, *([self.images] if self.images else [])]
        if any(len(column) != self.data.n for one in tables for column in one.columns):
            raise ValueError("its per-point estimates do not cover its points")
        return self

    @model_validator(mode="after")
    def _adds_up(self) -> "IntermediateResult":
        """Every figure that follows from others in the file must do so."""
        for i, one in enumerate(self.estimates):
            mean = math.fsum(math.exp(min(value, LARGEST)) for value in one.log_z) / len(one.log_z)
            _require(f"estimates.{i}.value", one.value, mean)
            _require_within(f"estimates.{i}.ci95_sampling", one.value, one.ci95_sampling)
            if one.bound is not None:
                _require(f"estimates.{i}.bound", one.bound, lower_bound(one.log_z, one.q))
            if one.ess_images is not None:
                _require(f"estimates.{i}.ess", one.ess, statistics.median(one.ess_images))
            if one.samples_images is not None:
                _require(f"estimates.{i}.samples", one.samples, statistics.median_low(one.samples_images))
        named: list[tuple[str, Accuracy]] = [("clean", self.clean)]
        named += [(f"probacc.{i}", one) for i, one in enumerate(self.probacc)]
        means = [("clean_loss", self.clean_loss), *((f"estimates.{i}", one) for i, one in enumerate(self.estimates))]
        if self.adversarial_loss is not None:
            named.append(("adversarial_loss.accuracy", self.adversarial_loss.accuracy))
            means.append(("adversarial_loss", self.adversarial_loss))
        for name, accuracy in named:
            _require(f"{name}.acc", accuracy.acc, accuracy.n_correct / self.data.n)
            for i, end in enumerate(wilson(accuracy.n_correct, self.data.n)):
                _require(f"{name}.ci95.{i}", accuracy.ci95[i], end)
        for name, loss in means:
            _require_within(f"{name}.ci95", loss.value, loss.ci95)
        _require_within("random.ci95", self.random.acc, self.random.ci95)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "IntermediateResult":
        """The radius against its text, intervals against their images, and attacks against the loss that they reach."""
        kind, _, size = self.distribution.text.partition(":")
        sizes = [one for one in (self.distribution.eps, self.distribution.sigma) if one is not None]
        if kind != self.distribution.kind or len(sizes) > 1 or any(parse_eps(size) != one for one in sizes):
            raise ValueError(f"distribution: {self.distribution.text} is not {self.distribution.kind} of size {sizes}")
        for i, one in enumerate(self.estimates):
            if one.log_z_half is not None:
                one.require_intervals(f"estimates.{i}")
        end = self.adversarial_loss
        if end is not None and kind in ("linf", "l2") and end.ball != self.distribution.text:
            raise ValueError(f"adversarial_loss.ball is {end.ball}; the distribution is {self.distribution.text}")
        if end is not None and max(end.pgd or 0.0, end.apgd or 0.0) > end.value + TINY:
            raise ValueError(f"adversarial_loss.value is {end.value}, and one of its attacks reaches more")
        if self.images is not None:
            self._require_images(self.images)
        return self

    def _require_images(self, images: Images) -> None:
        """Everything that is not estimated follows from the single images."""
        here: list[tuple[str, MeanLoss | MeanShare | Accuracy, MeanLoss | MeanShare | Accuracy]] = [
            ("clean", self.clean, Accuracy.of(images.clean)),
            ("clean_loss", self.clean_loss, MeanLoss.of(images.clean_loss)),
            ("random", self.random, images.random),
        ]
        here += [(f"probacc.{i}", one, images.probacc(one.rho)) for i, one in enumerate(self.probacc)]
        if (self.adversarial_loss is None) != (images.largest_loss is None):
            raise ValueError("adversarial_loss: the losses of its images are missing")
        if self.adversarial_loss and images.largest_loss and images.unbroken:
            here.append(("adversarial_loss", self.adversarial_loss, MeanLoss.of(images.largest_loss)))
            here.append(("adversarial_loss.accuracy", self.adversarial_loss.accuracy, Accuracy.of(images.unbroken)))
        for name, found, expected in here:
            for figure, value in expected.model_dump().items():
                pairs = (
                    zip(getattr(found, figure), value, strict=True)
                    if figure == "ci95"
                    else [(getattr(found, figure), value)]
                )
                for one, other in pairs:
                    _require(f"{name}.{figure}", one, other)

    def curve(self, estimator: Kind) -> list[QEstimate]:
        """Estimates of one kind in the order of q."""
        return sorted((one for one in self.estimates if one.estimator == estimator), key=lambda one: one.q)

    def shown_curve(self) -> list[QEstimate]:
        """The curve that a picture shows: the estimates of path sampling, or of importance sampling, or of Monte
        Carlo."""
        return self.curve("path") or self.curve("ais") or self.curve("mc")


def _require(name: str, found: float, expected: float) -> None:
    if not math.isclose(found, expected, rel_tol=TINY, abs_tol=TINY):
        raise ValueError(f"{name} is {found}; from the other figures of the file follows {expected}")


def _require_within(name: str, value: float, ends: tuple[float, float]) -> None:
    if not ends[0] - TINY <= value <= ends[1] + TINY:
        raise ValueError(f"{name} is [{ends[0]}, {ends[1]}]; its value {value} is not in it")


def lower_bound(log_z: Sequence[float], q: float) -> float:
    """The value that the mean of Z_q over n images exceeds with 95 % probability, from log mean weights of importance
    sampling.

    The mean weight is unbiased, so by Markov's inequality it is above 20 n times Z_q^q in at most 1 of 20 n runs. So
    with 95 % probability no image of the n is so far above.
    """
    slack = math.log(20 * len(log_z)) / q
    return math.fsum(math.exp(min(value - slack, LARGEST)) for value in log_z) / len(log_z)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean of a non-empty list and half the width of its 95 % interval (Student's t)."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, 0.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, student95(n - 1) * math.sqrt(variance / n)


def read(path: Path) -> IntermediateResult:
    """Read and check a result file; raises as ``results.read_as`` does."""
    return read_as(IntermediateResult, SCHEMA, path)
