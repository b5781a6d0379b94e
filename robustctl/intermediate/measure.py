"""The measurements on one image of an intermediate-q evaluation, as the store keeps them."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

FEWEST_EFFECTIVE = 20  # samples that must carry an estimate of Monte Carlo or path sampling

Kind = Literal["mc", "path", "ais"]


@dataclass(frozen=True)
class Chains:
    """The findings of the chains of one image.

    Attributes:
        numbers: log Z_q, half-width, ess, gap and lag for each q; of the last and longest run.
        samples: recorded moves of that run.
        acceptance: mean acceptance probability of that run.
        largest: the largest log loss that any run met.
        recorded, burnt: model evaluations of all runs.
    """

    numbers: list[list[float]]
    samples: int
    acceptance: float
    largest: float
    recorded: int
    burnt: int


@dataclass(frozen=True)
class Measure:
    """The measurements on one image.

    Attributes:
        clean_loss: cross-entropy without a perturbation, in nats.
        right, draws: random perturbations that are classified rightly, of how many.
        mc: log Z_q, half-width, ess, gap and lag for each q; empty if not asked for.
        path, ais: of path sampling and of annealed importance sampling; None if not asked for.
        largest: the largest loss of any sample.
        attack_losses, attack_right: of PGD and APGD; whether no attack turned the image.
        attacks: model evaluations with a gradient in the attacks.
        forwards: model evaluations without one, in all.
    """

    clean_loss: float
    clean_right: bool
    right: int
    draws: int
    mc: list[list[float]]
    path: Chains | None
    ais: Chains | None
    largest: float
    attack_losses: list[float]
    attack_right: bool
    attacks: int
    forwards: int

    @property
    def chains(self) -> list[Chains]:
        """Path sampling's and importance sampling's, as far as they were asked for."""
        return [one for one in (self.path, self.ais) if one is not None]

    def numbers(self, kind: Kind, k: int) -> list[float]:
        """log Z_q, half-width, ess, gap and lag of the k-th q."""
        return self.mc[k] if kind == "mc" else self._of(kind).numbers[k]

    def samples(self, kind: Kind) -> int:
        """Samples behind the estimates of one kind."""
        return self.draws if kind == "mc" else self._of(kind).samples

    def acceptance(self, kind: Kind) -> float | None:
        """They are None for Monte Carlo."""
        return None if kind == "mc" else self._of(kind).acceptance

    def _of(self, kind: Kind) -> Chains:
        chains = self.path if kind == "path" else self.ais
        assert chains is not None, "asked for what was not measured"
        return chains

    def to_json(self) -> str:
        """For the store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Measure":
        """Read what ``to_json`` wrote."""
        fields = json.loads(text)
        chains = {name: fields[name] and Chains(**fields[name]) for name in ("path", "ais")}
        return cls(**fields | chains)


def carried_by_few(kind: Kind, ess: float, samples: int) -> bool:
    """Whether the effective sample is too small to trust a value.

    At least ``FEWEST_EFFECTIVE`` must carry it for Monte Carlo and path sampling. In importance sampling it is the
    moves of the chains that carry the mean weight, and that should be half of them.
    """
    return ess < (samples / 2 if kind == "ais" else FEWEST_EFFECTIVE)
