"""Attacks that look for the misclassified point with the fewest changed pixels, one round after the other.

sigma-zero gives a first witness; then corners of the box with fewer pixels are tried, aimed at one class after the
other, and at last random corners with one pixel fewer. After each, pixels that are not needed are given back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustctl import seeds
from robustctl.data import ImageData
from robustctl.evaluation.nearest import Known, Round, witnesses
from robustctl.evaluation.store import Store
from robustctl.oracle import Oracle
from robustctl.perturbations.base import Effort, Task
from robustctl.perturbations.kinds.l0 import L0, MORE_QUERIES
from robustctl.perturbations.sparse import climb_corners, fewer, sigma_zero

STEPS = 300
ROUNDS, ROUND_STEPS = 9, 40
TRIES = 40
"""Forward passes of an image that try to give pixels back after a round."""
SHARES = (0.5, 0.75, 1.0)
"""Shares of the known number of pixels: the rounds look there in turn, always below it."""
TARGETS = 3
SEARCHES, EFFORT = 2, Effort(1, 1, 50)
"""Rounds of Sparse-RS, and the effort of each."""
PARAMETERS = [STEPS, ROUNDS, ROUND_STEPS, TRIES, SEARCHES, EFFORT.queries]
"""Parts of a store's key."""


class SigmaZero(Round):
    """sigma-zero from the image."""

    def __init__(self, known: Known) -> None:
        super().__init__("sigma-zero", known)

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        return fewer(oracle, x, y, sigma_zero(oracle, x, y, STEPS), TRIES)


class Corners(Round):
    """Corners with fewer pixels than are known, or as many as the bound allows; every other round begins at what is
    known."""

    def __init__(self, number: int, bound: float, known: Known, store: Store) -> None:
        super().__init__(f"corners {number}", known)
        self.number, self.bound, self.store = number, int(bound), store

    def meets(self, position: int) -> bool:
        return position not in self.known or self.known[position][0] > 1

    def pixels(self, position: int) -> int:
        """How many may change."""
        if position not in self.known:
            return self.bound
        there = round(self.known[position][0])
        return max(min(int(SHARES[self.number % len(SHARES)] * there), there - 1), 1)

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        most = torch.tensor([self.pixels(position) for position in positions], device=x.device)
        start = None
        if self.number % 2:
            start, rows = x.clone(), [i for i, position in enumerate(positions) if position in self.known]
            if rows:
                start[rows] = witnesses(self.store, "l0", self.known, x[rows], [positions[i] for i in rows])
        target = None
        if self.number:
            logits = oracle.logits(x).scatter(1, y[:, None], -torch.inf)
            rank = min((self.number - 1) % TARGETS, logits.shape[1] - 2)
            target = logits.argsort(dim=1, descending=True)[:, rank]
        found = climb_corners(oracle, x, y, most, ROUND_STEPS, start=start, target=target)
        return fewer(oracle, x, y, found, TRIES)


class OneFewer(Round):
    """Sparse-RS with one pixel fewer than is known; it needs no gradient."""

    def __init__(self, number: int, known: Known, data: ImageData, seed: int) -> None:
        super().__init__(f"sparse-rs {number}", known)
        self.data, self.seed = data, seed

    def meets(self, position: int) -> bool:
        return position in self.known and self.known[position][0] > 1

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        budgets = [round(self.known[position][0]) - 1 for position in positions]
        indices = self.data.indices[list(positions)].tolist()
        found, run = x.clone(), L0().families()["sparse-rs"].run
        for budget in sorted(set(budgets)):
            rows = [i for i, one in enumerate(budgets) if one == budget]
            generators = seeds.generators(self.seed, seeds.attack("l0", self.name), [indices[i] for i in rows])
            task = Task(oracle, x[rows], y[rows], float(budget), EFFORT, generators)
            found[rows] = run(task).view_as(x[rows])
        return fewer(oracle, x, y, found, TRIES)


def rounds(bound: float, known: Known, store: Store, data: ImageData, seed: int) -> list[Round]:
    """The rounds in their order."""
    corners = [Corners(k, bound, known, store) for k in range(ROUNDS)]
    return [SigmaZero(known), *corners, *(OneFewer(k, known, data, seed) for k in range(SEARCHES))]


def cost() -> float:
    """The most gradient evaluations per image."""
    tries = (1 + ROUNDS + SEARCHES) * (TRIES + 1) / 2
    return STEPS + ROUNDS * (1.5 * ROUND_STEPS + 0.5) + SEARCHES * MORE_QUERIES * EFFORT.queries / 2 + tries
