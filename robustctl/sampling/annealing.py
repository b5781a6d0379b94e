"""Path sampling with one annealing run for all q: the chains climb from t = 0 to the largest q and come down again."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustctl.sampling.hmc import State
from robustctl.sampling.noise import Noise
from robustctl.sampling.quadrature import Grid

ACCEPTANCE = (0.60, 0.70)  # 65 % is optimal (Neal 2011, section 4.4.3)
ADJUSTMENT = 1.2
MOST_ADJUSTMENTS = 25  # a step can change by a factor of 1.2^25 = 95, almost two orders of magnitude
PILOT_POINTS = 10


class Sampler(Protocol):
    """A Markov chain on the densities loss^t * mu.

    Attributes:
        widest: the largest step it takes; tuning starts there.
        cost: model evaluations a move.
        tunable: whether a shorter step raises the acceptance.
    """

    tunable: bool
    widest: float
    cost: int

    def start(self, noise: Noise) -> State:
        """Samples at t = 0."""
        ...

    def at(self, z: Tensor) -> State:
        """The state at given positions."""
        ...

    def widths(self, slope: Tensor) -> Tensor:
        """Length of a unit step for each pixel, given the size of t * gradient."""
        ...

    def move(self, state: State, t: float, way: Tensor, noise: Noise) -> tuple[State, Tensor]:
        """The next state, and each row's acceptance probability."""
        ...


@dataclass(frozen=True)
class Trace:
    """The measurements of an annealing run on n images with c chains each.

    Attributes:
        up, down: log loss on the way up and down, (k, moves, n, c). A grid that only climbs has an empty ``down``.
        acceptance: mean acceptance probability of the recorded moves, (n,).
        largest: the largest log loss met, (n,).
        recorded, burnt: model evaluations per image, in recorded moves and in discarded ones.
    """

    up: Tensor
    down: Tensor
    acceptance: Tensor
    largest: Tensor
    recorded: int
    burnt: int


def sweep_twice(sampler: Sampler, grid: Grid, moves: int, noise: Noise, summit: Tensor | None = None) -> Trace:
    """Climb and descend the grid.

    A chain lags behind the annealing: its losses are too small on the way up and too large on the way down. The mean of
    both ways cancels the lag to first order, and their difference shows its size. With a ``summit`` (r, c, h, w), the
    highest loss that an attack has found, the way down starts there, so that it errs upwards even if the way up has
    missed the heights altogether.

    At each point the first moves are a burn-in and discarded, more of them if t jumps further; they tune the step,
    image by image. Recorded moves have a fixed step.
    """
    run = _Run(sampler, noise)
    jumps = [_burn_in(low, high) for low, high in zip((grid.t[0], *grid.t), grid.t, strict=False)]
    up = [run.visit(t, jump, moves) for t, jump in zip(grid.t, jumps, strict=True)]
    if summit is not None:
        # Far above what is typical, a step that is right there overshoots: find the one that comes down.
        run.state = sampler.at(summit)
        for _ in range(MOST_ADJUSTMENTS):
            run.tune(grid.t[-1])
    # On the way down a point is reached from the one above it, so it needs that jump's burn-in.
    down = [run.visit(t, jump, moves) for t, jump in zip(reversed(grid.t), reversed((*jumps[1:], 1)), strict=True)]
    return run.trace(up, down[::-1])


def sweep_once(sampler: Sampler, grid: Grid, noise: Noise) -> Trace:
    """The thesis's Algorithm 5: one move a grid point on the way up, one step for all points.

    The step is tuned image by image on runs from new starts over ``PILOT_POINTS`` of the grid (the thesis: over all of
    them, one step for a mini-batch), at most ``MOST_ADJUSTMENTS`` times (thesis section 3.3.2).
    """
    # Pilots draw from generators of their own and an image that is content keeps its step: what an image gets does not
    # depend on how long others in its batch are tuned.
    run = _Run(sampler, noise.fork())
    pilot = grid.t[:: max(1, len(grid.t) // PILOT_POINTS)]
    content = torch.zeros_like(run.step, dtype=torch.bool)
    for _ in range(MOST_ADJUSTMENTS if sampler.tunable else 0):
        step = torch.where(content, run.step, run.adjusted(run.pilot(pilot)))
        content |= step == run.step
        run.step = step
        if content.all():
            break
    run.noise = noise
    run.restart()
    return run.trace([run.record(t, 1) for t in grid.t], [])


def sweep_weighing(sampler: Sampler, grid: Grid, scouted: Sequence[float], noise: Noise) -> Trace:
    """The way up of annealed importance sampling (Neal 2001): one move a grid point, from exact samples at t = 0.

    Importance weights are unbiased only if no step depends on the chains that it moves. So the steps, and the slopes
    that they are fitted to, come from another run, which is discarded.

    Args:
        scouted: increasing points at which the other run tunes the step; a grid point takes the step of the last one
            below.
    """
    scout = _Run(sampler, noise.fork())
    found = []
    for low, t in zip((scouted[0], *scouted), scouted, strict=False):
        for _ in range(_burn_in(low, t)):
            scout.tune(t)
        found.append((scout.slope(), scout.step))
    run = _Run(sampler, noise)
    run.burnt = scout.burnt
    up = []
    for t in grid.t:
        slope, step = found[max(0, bisect.bisect_right(scouted, t) - 1)]
        run.way = run.lengths(t * slope, step)
        up.append(run.record(t, 1))
    return run.trace(up, [])


def anneal(sampler: Sampler, ts: Sequence[float], step: float, noise: Noise) -> tuple[Tensor, Tensor]:
    """One move at each of ``ts``, with nothing tuned: what training can afford.

    Args:
        step: share of the widest step, in (0,1].

    Returns:
        The positions after each move, (len(ts), r, c, h, w), and the mean acceptance probability, a scalar.
    """
    run = _Run(sampler, noise)
    run.step = run.step * step
    points, chances = [], []
    for t in ts:
        run.way = run.measure(t)
        run.discard(t, 1)
        points.append(run.state.z)
        chances.append(run.chance.mean())
    return torch.stack(points), torch.stack(chances).mean()


def _burn_in(low: float, high: float) -> int:
    """Moves discarded between two points: enough for steps that change by a fifth to follow the density's width."""
    if low <= 0 or high <= low:
        return 1
    return min(MOST_ADJUSTMENTS, math.ceil(math.log(high / low) / math.log(ADJUSTMENT**2)))


class _Run:
    """The state that one annealing run drags along: chains, step sizes, counters."""

    def __init__(self, sampler: Sampler, noise: Noise) -> None:
        self.sampler = sampler
        self.noise = noise
        self.chains = noise.per_image
        self.state = sampler.start(noise)
        self.images = len(noise.generators)
        self.largest = self.state.value
        self.step = self.state.value.new_full((self.images,), sampler.widest)
        self.way = self.measure(0.0)
        self.chance = self.step
        self.accepted: list[Tensor] = []
        self.burnt = 0

    def visit(self, t: float, burn_in: int, moves: int) -> Tensor:
        """Tune on discarded moves, then record others."""
        for _ in range(burn_in):
            self.tune(t)
        return self.record(t, moves)

    def tune(self, t: float) -> None:
        """Make one move and discard it, then lengthen or shorten the step by a fifth if the acceptance asks for it."""
        # Only discarded moves may change the step: if its step follows its position, a chain samples another density.
        self.way = self.measure(t)
        self.discard(t, 1)
        if self.sampler.tunable:
            self.step = self.adjusted(self.chance)
            self.way = self.measure(t)

    def pilot(self, ts: Sequence[float]) -> Tensor:
        """Mean acceptance (n,) of a discarded run over ``ts`` from a new start."""
        self.restart()
        chances = []
        for t in ts:
            self.discard(t, 1)
            chances.append(self.chance)
        return torch.stack(chances).mean(0)

    def restart(self) -> None:
        self.state = self.sampler.start(self.noise)
        self.way = self.measure(0.0)

    def adjusted(self, chance: Tensor) -> Tensor:
        low, high = ACCEPTANCE  # a band, so that a step that is right does not change at every move
        factor = torch.where(chance > high, ADJUSTMENT, torch.where(chance < low, 1 / ADJUSTMENT, 1.0))
        return (self.step * factor).clamp(max=self.sampler.widest)

    def measure(self, t: float) -> Tensor:
        """The length of a step for each row and pixel, at the chains' present positions."""
        return self.lengths(t * self.slope(), self.step)

    def slope(self) -> Tensor:
        """The root mean square gradient over an image's chains, (n, c, h, w)."""
        # All chains of an image share one slope: a chain's own gradient would make its step depend on its position. A
        # gradient that is not finite tells no width; 0 gives the widest step.
        return self._by_image(self.state.grad).square().mean(1).sqrt().nan_to_num(posinf=0.0)

    def lengths(self, slope: Tensor, step: Tensor) -> Tensor:
        """Length of a step (n,) for each row and pixel under slopes (n, c, h, w) of log loss^t."""
        return self.sampler.widths(self._rows(slope)) * self._rows(step[:, None, None, None])

    def _by_image(self, of_rows: Tensor) -> Tensor:
        return of_rows.reshape(self.images, self.chains, *of_rows.shape[1:])

    def _rows(self, of_images: Tensor) -> Tensor:
        return of_images.repeat_interleave(self.chains, 0)

    def discard(self, t: float, moves: int) -> None:
        for _ in range(moves):
            self._move(t)
            self.burnt += 1

    def record(self, t: float, moves: int) -> Tensor:
        """Log loss (moves, n, c) after each of several moves."""
        values = []
        for _ in range(moves):
            self._move(t)
            self.accepted.append(self.chance)
            values.append(self._by_image(self.state.value))
        return torch.stack(values)

    def trace(self, up: Sequence[Tensor], down: Sequence[Tensor]) -> Trace:
        rows = self.chains * self.sampler.cost
        return Trace(
            up=torch.stack(list(up)),
            down=torch.stack(list(down)) if down else up[0].new_empty(0),
            acceptance=torch.stack(self.accepted).mean(0),
            largest=self._by_image(self.largest).amax(1),
            recorded=len(self.accepted) * rows,
            burnt=self.burnt * rows,
        )

    def _move(self, t: float) -> None:
        self.state, chance = self.sampler.move(self.state, t, self.way, self.noise)
        self.largest = torch.maximum(self.largest, self.state.value)
        self.chance = self._by_image(chance).mean(1)
