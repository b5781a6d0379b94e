"""Hamiltonian Monte Carlo on the annealed densities loss^t * mu (Rice, thesis 2023, section 3.1.4; Neal 2011)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustctl.sampling.distributions import Distribution
from robustctl.sampling.noise import Noise

JITTER = 0.25  # the flight's length varies by this share, so that no trajectory closes on itself every time

LogLossAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes images (r, c, h, w); returns the log of the loss (r,) and its gradient (r, c, h, w)."""


@dataclass(frozen=True)
class State:
    """Rows of a sampler: positions, their log loss (r,) and its gradient (zeros if a sampler needs none)."""

    z: Tensor
    value: Tensor
    grad: Tensor


class HMC:
    """Attributes:
    leapfrog: gradient evaluations a move. The gradient at the end of one step begins the next, and an accepted
        proposal hands its gradient to the next move, so there is exactly one per step.
    widest: the largest useful step, in widths of the distribution.
    """

    tunable = True

    def __init__(self, target: LogLossAndGrad, distribution: Distribution, leapfrog: int) -> None:
        self.target = target
        self.distribution = distribution
        self.cost = leapfrog
        self.widest = distribution.reach / leapfrog

    def start(self, noise: Noise) -> State:
        """Samples at t = 0; one gradient evaluation."""
        return self.at(self.distribution.draw(noise))

    def at(self, z: Tensor) -> State:
        """The state at given positions; one gradient evaluation."""
        return State(z, *self.target(z))

    def widths(self, slope: Tensor) -> Tensor:
        """Like the distribution's own."""
        return self.distribution.widths(slope)

    def move(self, state: State, t: float, way: Tensor, noise: Noise) -> tuple[State, Tensor]:
        """One trajectory and its Metropolis test.

        Args:
            t: inverse temperature, >= 0; the target is loss^t * mu.
            way: length of a leapfrog step for each pixel, (r, c, h, w) or broadcast to it.

        Returns:
            The next state, and the probability (r,) with which each row accepted.
        """
        p = noise.normal(*state.z.shape[1:])
        way = way * (1 + JITTER * (2 * noise.uniform(1, 1, 1) - 1))
        proposal, momentum, inside = self.fly(state, p, t, way)
        gain = self._log_joint(proposal, momentum, t) - self._log_joint(state, p, t)
        chance = torch.where(inside, gain.exp().clamp(max=1), 0.0).nan_to_num(nan=0.0)
        return choose(noise.uniform() < chance, proposal, state), chance

    def fly(self, state: State, p: Tensor, t: float, way: Tensor) -> tuple[State, Tensor, Tensor]:
        """The leapfrog trajectory: its end, its last momentum, and whether it stayed in the support, (r,)."""
        inside = torch.ones(len(p), dtype=torch.bool, device=p.device)
        for _ in range(self.cost):
            p = p + way / 2 * self._force(state, t)
            z, p, stayed = self.distribution.flight(state.z, p, way)
            inside &= stayed
            state = State(z, *self.target(z))
            p = p + way / 2 * self._force(state, t)
        return state, p, inside

    def _force(self, state: State, t: float) -> Tensor:
        _, pull = self.distribution.log_density(state.z)
        return t * state.grad if pull is None else t * state.grad + pull

    def _log_joint(self, state: State, p: Tensor, t: float) -> Tensor:
        log_mu, _ = self.distribution.log_density(state.z)
        return t * state.value + log_mu - p.square().flatten(1).sum(1) / 2


def choose(accepted: Tensor, proposal: State, state: State) -> State:
    """Row by row the proposal if it is accepted (r,), else the old state."""
    wide = accepted.reshape(-1, *(1,) * (state.z.dim() - 1))
    return State(
        torch.where(wide, proposal.z, state.z),
        torch.where(accepted, proposal.value, state.value),
        torch.where(wide, proposal.grad, state.grad),
    )
