"""The findings of the rounds of an adaptive evaluation, and of a second opinion. No torch here."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from robustctl.threats import Norm


class Frozen(BaseModel):
    """Unknown fields are errors, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class SecondOpinion(Frozen):
    """How many of a sample of the survivors of one norm fell to attacks of other kinds, and to which."""

    sample: Annotated[int, Field(ge=0)]
    fell: Annotated[int, Field(ge=0)]
    by: dict[str, int]
    evaluations: Annotated[int, Field(ge=0)]
