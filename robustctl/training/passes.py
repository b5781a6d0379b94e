"""The passes over the data that a recipe asks for, in order, and the position of a training among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robustctl.recipe.schema import Phase, Settings
from robustctl.training.batches import Batches


@dataclass(frozen=True)
class Pass:
    """One pass over the data. ``natural`` passes train on clean images with an optimiser of their own."""

    kind: Literal["pretrain", "natural", "method"]
    epoch: int
    steps: int
    phase: Phase

    @property
    def size(self) -> tuple[int, int]:
        """Images a batch, and their height and width."""
        return self.phase.batch_size, self.phase.size


class Position:
    """The position of a training.

    Attributes:
        passes: all passes of the training, in order.
        at: passes done.
        step_in_pass: optimiser steps done in the present pass.
        step: optimiser steps done in all passes together.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = passes
        self.at, self.step_in_pass, self.step = 0, 0, 0

    @property
    def present(self) -> Pass:
        """The pass that the next step belongs to."""
        return self.passes[self.at]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(one.steps for one in self.passes)

    @property
    def steps_alike(self) -> int:
        """Steps done in passes of the present one's kind."""
        return sum(one.steps for one in self.passes[: self.at] if one.kind == self.present.kind) + self.step_in_pass

    @property
    def pass_is_done(self) -> bool:
        """Whether all steps of the present pass are done, so that it waits to be finished."""
        return self.step_in_pass == self.present.steps

    def is_done(self, max_steps: int | None = None) -> bool:
        """Whether all passes are done, or ``max_steps`` steps are and no pass waits to be finished."""
        if self.at == len(self.passes):
            return True
        return max_steps is not None and self.step >= max_steps and not self.pass_is_done

    def next_step(self) -> None:
        """One more step is done."""
        self.step += 1
        self.step_in_pass += 1

    def next_pass(self) -> None:
        """The present pass is finished."""
        self.at += 1
        self.step_in_pass = 0

    def state(self) -> list[int]:
        return [self.at, self.step_in_pass, self.step]

    def load_state(self, state: list[int]) -> None:
        self.at, self.step_in_pass, self.step = state


def passes_of(settings: Settings, batches: Batches, replays: int, side: int) -> list[Pass]:
    """Natural passes of pre-training, then the method's; before each of these a natural one for gradient projection.

    Args:
        replays: optimiser steps of the method on each batch.
        side: height and width of the images if the recipe does not resize them.
    """
    passes = []
    if settings.pretrain:
        phase = _phase(settings, 0, side)
        count = batches.count(phase.batch_size)
        passes += [Pass("pretrain", epoch, count, phase) for epoch in range(settings.pretrain.epochs)]
    for epoch in range(settings.train.epochs):
        phase = _phase(settings, epoch, side)
        count = batches.count(phase.batch_size)
        if settings.projection:
            passes.append(Pass("natural", epoch, count, phase))
        passes.append(Pass("method", epoch, count * replays, phase))
    return passes


def _phase(settings: Settings, epoch: int, side: int) -> Phase:
    whole = Phase(at=0, size=side, batch_size=settings.train.batch_size)
    return max((one for one in settings.resize or (whole,) if one.at <= epoch), key=lambda one: one.at)
