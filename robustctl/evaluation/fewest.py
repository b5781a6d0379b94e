"""Attacks that look for the misclassified point with the fewest changed pixels, one round after the other.

sigma-zero gives a first witness; then corners of the box with fewer pixels are tried, aimed at one class after the
other. After each, pixels that are not needed are given back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustctl.evaluation.nearest import Known, Round, witnesses
from robustctl.evaluation.store import Store
from robustctl.oracle import Oracle
from robustctl.perturbations.sparse import climb_corners, fewer, sigma_zero

STEPS = 300
ROUNDS, ROUND_STEPS = 9, 40
TRIES = 40
"""Forward passes of an image that try to give pixels back after a round."""
SHARES = (0.5, 0.75, 1.0)
"""Shares of the known number of pixels: the rounds look there in turn, always below it."""
TARGETS = 3
PARAMETERS = [STEPS, ROUNDS, ROUND_STEPS, TRIES]
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


def rounds(bound: float, known: Known, store: Store) -> list[Round]:
    """The rounds in their order."""
    return [SigmaZero(known), *(Corners(k, bound, known, store) for k in range(ROUNDS))]


def cost() -> float:
    """Gradient evaluations an image at most."""
    return STEPS + ROUNDS * (1.5 * ROUND_STEPS + 0.5) + (ROUNDS + 1) * (TRIES + 1) / 2
