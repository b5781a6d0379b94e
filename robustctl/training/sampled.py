"""The common part of the methods that train on random or sampled perturbations. No torch at the top: recipes read
it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeVar

from pydantic import Field, field_validator

from robustctl.errors import RequestError
from robustctl.recipe.method import AttackName, MethodConfig, OuterName
from robustctl.sampling.perturbation import Perturbation
from robustctl.threats import Norm, Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.training.step import Step

CHAIN_START = "samples"  # what the metrics call the error at sampled points


class SampledConfig(MethodConfig):
    """``samples``: perturbed images for each clean one. ``distribution``: as ``robustctl eval --distribution`` has it;
    left out, it is the uniform one on the ball of ``train.threats``.
    """

    takes: ClassVar[tuple[AttackName, ...]] = ()

    samples: Annotated[int, Field(ge=2)]
    distribution: str | None = None

    @field_validator("distribution")
    @classmethod
    def _is_of_pixels(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                perturbation = Perturbation.parse(text)
            except RequestError as error:
                raise ValueError(str(error)) from None
            if perturbation.kind == "spatial":
                raise ValueError("training samples pixels, not spatial transformations; augment for those")
        return text

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        """One ball with a uniform distribution, or a distribution of its own."""
        if self.distribution is not None or norms in ({"linf"}, {"l2"}):
            return []
        return [f"train.threats: method {self.name} samples one ball, linf or l2, or the method's distribution"]

    def outers(self) -> tuple[OuterName, ...]:
        """There is none: these methods have losses of their own."""
        return ()

    def perturbation(self, threats: tuple[Threat, ...]) -> Perturbation:
        """The distribution that is trained on."""
        return Perturbation.parse(self.distribution or str(threats[0]))


AnyConfig = TypeVar("AnyConfig", bound=SampledConfig)


class SampledMethod(TrainingMethod, Generic[AnyConfig]):
    """A method that draws perturbations from a distribution and attacks nothing."""

    attacks = False

    def __init__(self, config: AnyConfig, threats: tuple[Threat, ...]) -> None:
        self.config = config
        self.perturbation = config.perturbation(threats)


def random_losses(step: Step, perturbation: Perturbation, samples: int) -> Tensor:
    """Log cross-entropy (n, samples) with a graph at independent draws of the distribution."""
    from robustctl.sampling.build import draw
    from robustctl.sampling.noise import Noise

    rows = step.x.repeat_interleave(samples, 0)
    return log_losses(step, draw(perturbation, rows, Noise(step.generators, samples, step.x)), samples)


def log_losses(step: Step, points: Tensor, samples: int) -> Tensor:
    """Log cross-entropy (n, samples) with a graph at points (n * samples, c, h, w), image by image."""
    from robustctl.sampling.log_loss import log_ce

    logits = step.logits(points)
    values: Tensor = log_ce(logits, step.labels.repeat_interleave(samples)).reshape(-1, samples)
    step.record_error(CHAIN_START, logits[samples - 1 :: samples])
    return values
