"""Flips, rotations, scalings, crops, and the random walk over their parameters (Rice, thesis 2023, section 3.1.6)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.sampling.distributions import fold
from robustctl.sampling.hmc import State, choose
from robustctl.sampling.noise import Noise

DEGREES = 10.0
SCALES = (0.9, 1.1)
CROP = 4  # offsets 0 .. 4 in an image padded by half of it on each side
STEPS = 20  # of the walk for each move; the last is kept
PROPOSAL_DEGREES, PROPOSAL_SCALE, PROPOSAL_CROP = 5.0, 0.5, 2.0


class Spatial:
    """Flip with probability 1/2, rotation in +-10 degrees, scale in 0.9-1.1, crop offsets in 0-4 pixels, all uniform.

    Parameters are (r, 5, 1, 1): flip, degrees, scale, horizontal and vertical offset.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        # Offsets are integers: their mirrors stand half a pixel outside.
        self.low = x.new_tensor([0, -DEGREES, SCALES[0], -0.5, -0.5])[:, None, None]
        self.high = x.new_tensor([1, DEGREES, SCALES[1], CROP + 0.5, CROP + 0.5])[:, None, None]

    def draw(self, noise: Noise) -> Tensor:
        """Exact samples of the parameters."""
        return _whole(self.low + (self.high - self.low) * noise.uniform(5, 1, 1))

    def propose(self, parameters: Tensor, noise: Noise) -> Tensor:
        """The thesis's proposal, mirrored at the ends of each range, which keeps it symmetric."""
        widths = parameters.new_tensor([0, PROPOSAL_DEGREES, PROPOSAL_SCALE, PROPOSAL_CROP, PROPOSAL_CROP])
        change = widths[:, None, None] * noise.normal(5, 1, 1)
        change[:, 3:] = change[:, 3:].round()
        moved, _ = fold(parameters + change, change, self.low, self.high)
        flip = noise.uniform(1, 1, 1) < 0.5
        moved[:, :1] = torch.where(flip, 1 - parameters[:, :1], parameters[:, :1])
        return moved

    def render(self, parameters: Tensor) -> Tensor:
        """The transformed images (r, c, h, w), bilinear, black outside."""
        flip, degrees, scale, right, down = parameters.flatten(1).unbind(1)
        height, width = self.x.shape[2:]
        mirror = 1 - 2 * flip
        angle = degrees * (math.pi / 180)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        aspect = height / width
        # Rows map output coordinates in [-1, 1] to input ones: inverse scale and rotation, then the crop's shift.
        top = torch.stack([mirror * cos, -mirror * sin * aspect, mirror * (right - CROP / 2) * 2 / width], dim=1)
        bottom = torch.stack([sin / aspect, cos, (down - CROP / 2) * 2 / height], dim=1)
        grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(self.x.shape), align_corners=False)
        return F.grid_sample(self.x, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)


class RandomWalk:
    """Random-walk Metropolis over the parameters: ``STEPS`` steps a move, no gradients.

    Args:
        log_loss: of images (r, c, h, w), the log loss (r,).
    """

    tunable = False
    widest = 1.0
    cost = STEPS

    def __init__(self, log_loss: Callable[[Tensor], Tensor], distribution: Spatial) -> None:
        self.log_loss = log_loss
        self.distribution = distribution

    def start(self, noise: Noise) -> State:
        """Samples at t = 0."""
        return self.at(self.distribution.draw(noise))

    def widths(self, slope: Tensor) -> Tensor:
        """One: proposals have widths of their own."""
        return torch.ones_like(slope)

    def move(self, state: State, t: float, way: Tensor, noise: Noise) -> tuple[State, Tensor]:
        """``STEPS`` Metropolis steps; the proposals have fixed widths, so ``way`` has no say."""
        chances = []
        for _ in range(STEPS):
            proposal = self.at(self.distribution.propose(state.z, noise))
            chance = (t * (proposal.value - state.value)).exp().clamp(max=1).nan_to_num(nan=0.0)
            state = choose(noise.uniform() < chance, proposal, state)
            chances.append(chance)
        return state, torch.stack(chances).mean(0)

    def at(self, parameters: Tensor) -> State:
        """The state at given parameters; one forward pass."""
        value = self.log_loss(self.distribution.render(parameters))
        return State(parameters, value, torch.zeros_like(parameters[:, :1]))


def _whole(parameters: Tensor) -> Tensor:
    parameters = parameters.clone()
    parameters[:, [0, 3, 4]] = parameters[:, [0, 3, 4]].round()
    return parameters
