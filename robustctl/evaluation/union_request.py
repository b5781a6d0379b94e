"""The request for a union evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass

from robustctl.errors import RequestError
from robustctl.evaluation import referee, reference
from robustctl.evaluation.protocols import ROUNDS
from robustctl.oracle import DRAWS
from robustctl.precision import Precision
from robustctl.threats import Threat


@dataclass(frozen=True)
class UnionRequest:
    """The request apart from the model and the images.

    Attributes:
        threats: in the order of the tables, one per norm.
        protocol: a name of ``protocols.ROUNDS`` or ``protocols.PROTOCOLS``, or ``autoattack``.
        seed: any whole number >= 0.
        batch_size: images per forward pass.
        precision: wanted of the attacks, see ``union.confirmed``; the referee always takes float32.
        union_only: do not attack a point in other norms once it is broken in one.
        force: go on although the clean accuracy is not the recorded one.
        measure: time float32 and ``precision``, channels-last memory and torch's own order, and the ``other_sizes``,
            and take what is fastest, see ``faster.fastest``.
        other_sizes: batch sizes that may be taken instead of ``batch_size``.
        channels_last: the order in memory of the copy that is attacked; a model that does not run so has the other one.
        seconds_per_image: what was measured, by what it is of.
        until: percentage points under which the bound of missed breaks must come, see ``missed``; None asks for none.
        fast_copy: attack a faster copy of the model, see ``union.confirmed``.
        random: the model gives other logits from pass to pass, see ``union.confirmed``.
    """

    threats: tuple[Threat, ...]
    protocol: str
    seed: int
    batch_size: int
    precision: Precision = "float32"
    union_only: bool = False
    force: bool = False
    measure: bool = False
    other_sizes: tuple[int, ...] = ()
    channels_last: bool = True
    seconds_per_image: Mapping[str, float] | None = None
    until: float | None = None
    fast_copy: bool = True
    random: bool = False

    def __post_init__(self) -> None:
        """Raise RequestError if an audit is asked of a protocol that has no rounds, or with an impossible bound."""
        if self.until is None:
            return
        if self.protocol not in ROUNDS:
            raise RequestError(f"--until goes on from the rounds of {' or '.join(ROUNDS)}; {self.protocol} has none")
        if not 0 < self.until <= 100:
            raise RequestError(f"--until {self.until:g}: give percentage points above 0, at most 100, for example 0.1")

    @property
    def draws(self) -> int:
        """Passes that our attacks average over; ``passes`` judge a point."""
        return DRAWS if self.random and self.protocol != reference.NAME else 1

    @property
    def passes(self) -> int:
        return referee.PASSES if self.random else 1
