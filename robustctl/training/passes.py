"""The passes over the data that a recipe asks for, in order."""

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


def plan(settings: Settings, batches: Batches, replays: int, side: int) -> list[Pass]:
    """Natural passes of pre-training, then the method's; before each of these a natural one for gradient projection.

    Args:
        replays: optimiser steps of the method on each batch.
        side: height and width of the images where the recipe does not resize them.
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
