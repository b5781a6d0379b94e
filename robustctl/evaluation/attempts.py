"""Points and their attempts, as the row scheduler keeps them."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from robustctl.evaluation.protocols import Family


@dataclass(eq=False)
class Point:
    """A point with its attempts."""

    position: int
    index: int  # in its split, for the random seeds
    x: Tensor
    y: int
    targets: list[int]  # target class of each attempt, -1 if the loss has none
    next_attempt: int = 0
    running: int = 0
    survived: int = 0  # attempts that ended without breaking it
    best_margin: float = -float("inf")
    best: Tensor | None = None
    close: bool = False  # is the best margin just below 0
    finished: bool = False

    @property
    def has_attempts(self) -> bool:
        """Whether an attempt has not begun."""
        return self.next_attempt < len(self.targets)


@dataclass(eq=False)
class Attempt:
    """A run of the family at a point. The host counts its evaluations, so that it knows when a stage ends.

    ``row`` is its place in the batch. ``over``: it has evaluated its last point, and waits for the judgement.
    """

    point: Point
    number: int
    row: int = -1
    stage: int = 0
    evaluated: int = 0  # points of this stage
    over: bool = False


class Ready:
    """Begun points that may begin another attempt, by how many they have running.

    Placing a point and picking one take a time that does not grow with the number of points.
    """

    def __init__(self) -> None:
        self.by_running: list[OrderedDict[Point, None]] = []

    def place(self, point: Point, side_by_side: bool) -> None:
        """Put a point into its present group. ``side_by_side``: its attempts may run beside each other from the
        start."""
        self.drop(point)
        if point.has_attempts and (not point.running or side_by_side or point.survived):
            while len(self.by_running) <= point.running:
                self.by_running.append(OrderedDict())
            self.by_running[point.running][point] = None

    def drop(self, point: Point) -> None:
        """Take a point out, if it is here."""
        for points in self.by_running:
            points.pop(point, None)

    def first(self) -> Point | None:
        """The one with the fewest running attempts that has waited longest."""
        return next((next(iter(points)) for points in self.by_running if points), None)


def targets_of(logits: Tensor, y: Tensor, family: Family) -> list[list[int]]:
    """Target class of each attempt of each point: the most likely wrong classes, ``restarts`` times each.

    It is -1, once per restart, if the loss has no target.
    """
    if family.targets == 0:
        return [[-1] * family.restarts] * len(y)
    count = min(family.targets, logits.shape[1] - 1)
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    likely = wrong.argsort(dim=1, descending=True, stable=True)[:, :count]
    return likely.repeat_interleave(family.restarts, dim=1).tolist()
