import math

import pytest
import torch
from torch import Tensor

from robustctl.sampling.distributions import Ball, Box, Distribution, Gaussian, fold
from robustctl.sampling.noise import Noise

EPS = 0.3


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def draw(distribution: Distribution, images: int = 4) -> Tensor:
    return distribution.draw(Noise(generators(images), len(distribution.x) // images, distribution.x))


def test_fold_is_a_flight_between_mirrors() -> None:
    low, high = torch.zeros(6), torch.ones(6)
    z, p = fold(torch.tensor([0.25, 1.25, -0.25, 2.25, 3.25, -2.25]), torch.ones(6), low, high)
    assert torch.allclose(z, torch.tensor([0.25, 0.75, 0.25, 0.25, 0.75, 0.25]))
    assert p.tolist() == [1, -1, -1, 1, -1, -1]


def test_fold_leaves_what_is_inside_alone() -> None:
    z = torch.rand(1000) * 0.8 + 0.1
    folded, p = fold(z, z, torch.full((1000,), 0.1), torch.full((1000,), 0.9))
    assert torch.equal(folded, z)
    assert torch.equal(p, z)


def test_box_draws_fill_the_cut_interval_evenly() -> None:
    x = torch.tensor([0.0, 0.1, 0.5, 1.0]).reshape(1, 1, 4).expand(8000, 1, 1, 4)
    z = draw(Box(x, EPS)).flatten(1)
    low, high = torch.tensor([0, 0, 0.2, 0.7]), torch.tensor([0.3, 0.4, 0.8, 1.0])
    assert (z >= low - 1e-7).all()
    assert (z <= high + 1e-7).all()
    assert torch.allclose(z.mean(0), (low + high) / 2, atol=0.01)
    assert torch.allclose(z.std(0), (high - low) / math.sqrt(12), atol=0.01)


@pytest.mark.parametrize("d", [1, 5, 50])
def test_ball_draws_have_the_radial_law_of_a_ball(d: int) -> None:
    z = draw(Ball(torch.full((8000, 1, 1, d), 0.5), EPS))
    radius = (z - 0.5).flatten(1).norm(dim=1) / EPS
    assert radius.max() <= 1 + 1e-5
    uniform = (radius**d).sort().values  # (r / R)^d is uniform on [0, 1]
    ks = (uniform - torch.linspace(0, 1, 8000)).abs().max()
    assert ks < 1.95 / math.sqrt(8000)


def test_ball_cut_by_the_box_has_the_moments_of_rejection_sampling() -> None:
    centre = torch.tensor([0.05, 0.9, 0.5])
    cube = (torch.rand(400_000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * EPS + centre
    kept = cube[((cube - centre).norm(dim=1) <= EPS) & (cube >= 0).all(1) & (cube <= 1).all(1)]
    z = draw(Ball(centre.reshape(1, 1, 3).expand(20_000, 1, 1, 3), EPS)).flatten(1)
    assert (z >= 0).all()
    assert (z <= 1).all()
    assert ((z - centre).norm(dim=1) <= EPS * (1 + 1e-5)).all()
    assert torch.allclose(z.mean(0), kept.mean(0), atol=0.004)
    assert torch.allclose(z.var(0), kept.var(0), rtol=0.04)


@pytest.mark.parametrize("make", [Box, Ball, Gaussian])
def test_flight_is_reversible(make: type[Distribution]) -> None:
    x = torch.rand(64, 1, 4, 4, dtype=torch.float64)
    distribution = make(x, EPS)
    z = draw(distribution)
    p = torch.randn_like(z)
    way = torch.full((64, 1, 1, 1), 0.05, dtype=torch.float64)
    there, momentum, inside = distribution.flight(z, p, way)
    back, again, _ = distribution.flight(there, -momentum, way)
    assert inside.any()
    assert torch.allclose(back[inside], z[inside], atol=1e-12)
    assert torch.allclose(again[inside], -p[inside], atol=1e-12)


def test_flight_off_the_sphere_keeps_the_radius_without_the_box() -> None:
    x = torch.full((256, 1, 1, 8), 0.5, dtype=torch.float64)
    ball = Ball(x, EPS)
    z = draw(ball)
    p = torch.randn_like(z)
    there, momentum, inside = ball.flight(z, p, torch.full((256, 1, 1, 1), 0.05, dtype=torch.float64))
    mirrored = (momentum - p).flatten(1).abs().sum(1) > 1e-9
    assert inside.all()
    assert mirrored.any()
    radius = [(v - x).flatten(1).norm(dim=1) for v in (z, there)]
    assert torch.allclose(radius[0][mirrored], radius[1][mirrored], atol=1e-12)


def test_an_image_draws_the_same_whatever_shares_its_batch() -> None:
    x = torch.rand(6, 1, 3, 3)
    together = Box(x, EPS).draw(Noise(generators(3), 2, x))
    alone = Box(x[2:4], EPS).draw(Noise(generators(3)[1:2], 2, x))
    assert torch.equal(together[2:4], alone)
