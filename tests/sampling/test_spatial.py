import math
from typing import Any

import torch
from torch import Tensor

from robustctl.sampling import quadrature
from robustctl.sampling.annealing import sweep_twice
from robustctl.sampling.hmc import State
from robustctl.sampling.spatial import CROP, DEGREES, SCALES, RandomWalk, Spatial

REST = (0.0, 0.0, 1.0, CROP / 2, CROP / 2)


def parameters(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 5, 1, 1)


def test_parameters_at_rest_leave_the_image_alone() -> None:
    x = torch.rand(1, 3, 8, 6)
    assert torch.allclose(Spatial(x).render(parameters(*REST)), x, atol=1e-5)


def test_a_flip_mirrors_columns() -> None:
    x = torch.rand(1, 3, 8, 6)
    assert torch.allclose(Spatial(x).render(parameters(1, *REST[1:])), x.flip(3), atol=1e-5)


def test_a_crop_offset_moves_whole_pixels_and_fills_with_black() -> None:
    x = torch.rand(1, 1, 8, 6)
    moved = Spatial(x).render(parameters(0, 0, 1, CROP / 2 + 1, CROP / 2 - 2))
    assert torch.allclose(moved[:, :, 2:, :-1], x[:, :, :-2, 1:], atol=1e-5)
    assert moved[:, :, :2].abs().max() < 1e-5
    assert moved[:, :, :, -1].abs().max() < 1e-5


def test_rotation_turns_a_square_image() -> None:
    x = torch.zeros(1, 1, 41, 41)
    x[0, 0, 20, 38] = 1  # 18 pixels right of the middle
    turned = Spatial(x).render(parameters(0, DEGREES, *REST[2:]))[0, 0]
    row, column = divmod(int(turned.argmax()), 41)
    assert abs(abs(row - 20) - 18 * math.sin(math.radians(DEGREES))) < 1
    assert abs(column - 20 - 18 * math.cos(math.radians(DEGREES))) < 1


def test_proposals_and_draws_stay_in_their_ranges(forms: Any) -> None:
    spatial = Spatial(torch.rand(200, 1, 4, 4, dtype=torch.float64))
    noise = forms.noise(50, 4)
    z = spatial.draw(noise)
    for _ in range(5):
        flip, degrees, scale, right, down = z.flatten(1).unbind(1)
        assert set(flip.tolist()) == {0, 1}
        assert degrees.abs().max() <= DEGREES
        assert SCALES[0] <= scale.min() <= scale.max() <= SCALES[1]
        assert set(right.tolist()) == set(down.tolist()) == set(range(CROP + 1))
        z = spatial.propose(z, noise)


def test_the_walk_keeps_a_tilted_density(forms: Any) -> None:
    # log loss = number of pixels moved right: at t the offsets have probabilities proportional to e^(t k).
    rows, t = 2000, 0.5
    spatial = Spatial(torch.ones(rows, 1, 1, 1, dtype=torch.float64))
    walk = RandomWalk(lambda x: x.flatten(), spatial)
    walk.at = lambda z: State(z, z[:, 3].flatten(), torch.zeros_like(z[:, :1]))  # type: ignore[method-assign]
    noise = forms.noise(rows // 10, 10)
    state = walk.start(noise)
    for _ in range(3):
        state, chance = walk.move(state, t, torch.ones(1), noise)
    weights = torch.exp(t * torch.arange(CROP + 1.0))
    seen = torch.bincount(state.z[:, 3].flatten().long(), minlength=CROP + 1) / rows
    assert torch.allclose(seen, weights / weights.sum(), atol=0.04)
    assert 0.3 < chance.mean() < 1


def test_a_walk_can_be_annealed(forms: Any) -> None:
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    walk = RandomWalk(lambda images: images[:, 0, :4].mean((1, 2)).log(), Spatial(x))
    trace = sweep_twice(walk, quadrature.graded([100.0]), 1, forms.noise(5, 4))
    assert trace.up[-1].mean() > trace.up[0].mean()
    assert (trace.largest >= trace.up[-1].amax(dim=(0, 2)) - 1e-12).all()


def test_the_ranges_are_the_thesis_s() -> None:
    assert (DEGREES, SCALES, CROP) == (10.0, (0.9, 1.1), 4), "Rice 2023, section 3.1.6"
