"""The findings of the rounds of an adaptive evaluation, and of a second opinion, and the flags that follow. No torch
here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from robustctl.results.result_file import Frozen
from robustctl.threats import Norm, Threat

SHARE, LEAST, MOST = 0.02, 8, 50
"""The sample of a second opinion: this share of the survivors, but at least and at most so many."""
MASKING_POINTS = 5
"""Fewer points than this prove no masking."""


class RoundInfo(Frozen):
    """One step of an adaptive protocol.

    It met ``met`` of ``left`` unbroken points and broke ``broken``, for so many gradient ``evaluations`` (a forward
    pass counts as half of one). ``decision`` says what was decided then.
    """

    norm: Norm
    name: str
    left: Annotated[int, Field(ge=0)]
    met: Annotated[int, Field(ge=0)]
    broken: Annotated[int, Field(ge=0)]
    evaluations: Annotated[int, Field(ge=0)]
    decision: str


class Missed(Frozen):
    """How many breaks the rounds missed at most, in one norm or in the union.

    ``drawn`` of the ``survivors``, chosen at random, met the full budget; ``fell`` of them broke, which counts. It
    would break at most ``missed`` of the others, which is so many percentage ``points`` of all images, at this
    ``confidence``. All audits of these norms together spent so many gradient ``evaluations``.
    """

    survivors: Annotated[int, Field(ge=0)]
    drawn: Annotated[int, Field(ge=0)]
    fell: Annotated[int, Field(ge=0)]
    missed: Annotated[int, Field(ge=0)]
    points: Annotated[float, Field(ge=0, le=100)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    evaluations: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.fell} of {self.drawn} survivors fell to the full budget; of the other "
            f"{self.survivors - self.drawn} it would break at most {self.missed} ({self.points:.2g} points, "
            f"{100 * self.confidence:.0f} % confidence)"
        )


class SecondOpinion(Frozen):
    """How many of a sample of the survivors of one norm fell to attacks of other kinds, and to which."""

    sample: Annotated[int, Field(ge=0)]
    fell: Annotated[int, Field(ge=0)]
    by: dict[str, int]
    evaluations: Annotated[int, Field(ge=0)]


def sample_size(survivors: int) -> int:
    """How many of so many survivors a second opinion looks at."""
    return min(max(math.ceil(SHARE * survivors), LEAST), MOST, survivors)


def opinion_flags(opinions: Mapping[Norm, SecondOpinion], threats: Sequence[Threat]) -> list[str]:
    """A flag for every norm in which a survivor fell."""
    return [
        f"second-opinion: in {threat} {one.fell} of {one.sample} sampled survivors fell to "
        f"{' and '.join(f'{name} ({count})' for name, count in one.by.items() if count)}: the true figure is lower"
        for threat in threats
        if (one := opinions.get(threat.norm)) and one.fell
    ]


def masking_flags(infos: Iterable[RoundInfo], threats: Sequence[Threat]) -> list[str]:
    """A flag for every norm in which the diverse starts broke more points than the first gradient attack."""
    flags, infos = [], list(infos)
    for threat in threats:
        first, diverse = (
            sum(info.broken for info in infos if info.norm == threat.norm and info.name.startswith(name))
            for name in ("first", "diverse")
        )
        if diverse > max(first, MASKING_POINTS):
            flags.append(
                f"masking: in {threat} diverse starts broke {diverse} points and the first gradient attack {first}: "
                "gradients at the images mislead, so that other attacks may break more"
            )
    return flags
