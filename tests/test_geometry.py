"""Geometry against float64 oracles: bisection on the one multiplier that each projection has."""

from typing import Literal, cast, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustctl import geometry, seeds
from robustctl.threats import NORMS, Norm

PIXELS = st.sampled_from([0.0, 1.0, 0.5, 0.25]) | st.floats(0, 1, width=32)
MOVES = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5]) | st.floats(-3, 3, width=32)
RADII = st.floats(2**-10, 12, width=32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """An image of 1 to 8 pixels (ties and corners are likely), a point off it, and a radius."""
    d = draw(st.integers(1, 8))
    x = torch.tensor(draw(st.lists(PIXELS, min_size=d, max_size=d)), dtype=torch.float64)
    delta = torch.tensor(draw(st.lists(MOVES, min_size=d, max_size=d)), dtype=torch.float64)
    return x.view(1, 1, 1, d), (x + delta).view(1, 1, 1, d), draw(RADII)


def nearest(x_adv: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """Projection of one row by 200 bisections of its multiplier, float64."""
    delta, low, high = x_adv - x, 0.0, 1e6

    def point(multiplier: float) -> Tensor:
        if norm == "linf":
            moved = delta.clamp(-eps, eps)
        elif norm == "l2":
            moved = delta / (1 + multiplier)
        else:
            moved = delta.sign() * (delta.abs() - multiplier).clamp_min(0)
        return (x + moved).clamp(0, 1)

    if norm == "linf" or float(geometry.norm(point(0) - x, norm)) <= eps:
        return point(0)
    for _ in range(200):
        middle = (low + high) / 2
        if float(geometry.norm(point(middle) - x, norm)) > eps:
            low = middle
        else:
            high = middle
    return point(high)


Way = Literal["cpu", "accelerator"]
WAYS: list[tuple[Norm, Way]] = [("linf", "cpu"), *((norm, way) for norm in ("l2", "l1") for way in get_args(Way))]


def project(way: Way, x_adv: Tensor, x: Tensor, norm: Norm, eps: geometry.Radius) -> Tensor:
    """The projection as the CPU or as an accelerator computes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "is_host", lambda _: way == "cpu")
        return geometry.project(x_adv, x, norm, eps)


@pytest.mark.parametrize(("norm", "way"), WAYS)
@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_projection_is_the_nearest_point_found_by_bisection(
    norm: Norm, way: Way, case: tuple[Tensor, Tensor, float]
) -> None:
    x, x_adv, eps = case
    expected = nearest(x_adv, x, norm, eps)
    torch.testing.assert_close(project(way, x_adv, x, norm, eps), expected, rtol=0, atol=1e-9)
    # In float32 a point that is almost in the ball counts as in it, and its pixels may differ by the root of a rounding
    # error. The result is as near as the nearest point all the same. In l_1 a pixel keeps the small difference of two
    # numbers as large as its move, and each pixel may be off by their rounding.
    single = project(way, x_adv.float(), x.float(), norm, eps).double()
    rounding = 2**-24 * x.numel() * max(1.0, float((x_adv - x).abs().max()))
    assert geometry.norm(single - x, norm).item() <= eps * (1 + 1e-6) + 1e-7 + rounding
    assert (single - x_adv).norm() <= (expected - x_adv).norm() + 2e-5


@pytest.mark.parametrize(("norm", "way"), WAYS)
@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_projection_is_idempotent_and_in_the_box(norm: Norm, way: Way, case: tuple[Tensor, Tensor, float]) -> None:
    x, x_adv, eps = case
    once = project(way, x_adv, x, norm, eps)
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(project(way, once, x, norm, eps), once, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "way"), WAYS)
@pytest.mark.parametrize("d", [1, 2, 5, 784, 3072])
def test_projection_matches_bisection_on_many_pixels(norm: Norm, way: Way, d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    x = torch.rand(5, 1, 1, d, generator=generator, dtype=torch.float64)
    x_adv = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    eps = {"linf": 0.1, "l2": 0.5, "l1": min(12.0, d / 9)}[norm]
    expected = torch.cat([nearest(x_adv[i : i + 1], x[i : i + 1], norm, eps) for i in range(5)])
    torch.testing.assert_close(project(way, x_adv, x, norm, eps), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "way"), WAYS)
def test_projection_of_a_row_does_not_depend_on_the_batch_or_its_radii(norm: Norm, way: Way) -> None:
    x = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x_adv = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    eps = torch.linspace(0.05, 3, 7)
    together = project(way, x_adv, x, norm, eps)
    for i in range(7):
        alone = project(way, x_adv[i : i + 1], x[i : i + 1], norm, eps[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_larger_than_the_box_leaves_only_the_box(norm: Norm) -> None:
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    x_adv = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(geometry.project(x_adv, x, norm, 100.0), x_adv.clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_steps_of_a_zero_gradient_are_zero_and_others_have_norm_one(norm: Norm) -> None:
    grad = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    grad[1] = 0
    step = geometry.steepest_step(grad, norm)
    torch.testing.assert_close(geometry.norm(step, norm), torch.tensor([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_reaches_the_dual_norm_of_the_gradient(norm: Norm) -> None:
    grad = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    dual = cast(Norm, {"linf": "l1", "l2": "l2", "l1": "linf"}[norm])
    rise = (grad * geometry.steepest_step(grad, norm)).flatten(1).sum(1)
    torch.testing.assert_close(rise, geometry.norm(grad, dual))


def test_l1_step_spreads_evenly_over_the_asked_share_of_pixels() -> None:
    grad = torch.randn(3, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    step = geometry.steepest_step(grad, "l1", torch.tensor([0.0, 0.1, 1.0]))
    assert (step != 0).flatten(1).sum(1).tolist() == [1, 10, 100]
    torch.testing.assert_close(geometry.norm(step, "l1"), torch.ones(3))
    smallest = torch.where(step[1] != 0, grad[1].abs(), torch.inf).min()
    assert smallest > torch.where(step[1] == 0, grad[1].abs(), 0).max()


@pytest.mark.parametrize("by_numpy", [False, True], ids=["torch", "numpy"])
def test_rows_are_sorted_by_themselves_on_every_device(by_numpy: bool) -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    ordered = geometry._ascending(rows, by_numpy=by_numpy)
    assert ordered.tolist() == [sorted(row) for row in rows.tolist()]


def test_an_l1_step_s_pixels_do_not_depend_on_the_other_gradients_of_the_batch() -> None:
    grad = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    grad *= torch.tensor([1e-3, 1.0, 10.0, 1e3]).view(4, 1, 1, 1)
    share = torch.full((4,), 0.2)
    step = geometry.steepest_step(grad, "l1", share)
    for row, one in enumerate(grad):
        largest = one.flatten().abs().argsort(descending=True)[:5]
        expected = torch.zeros(25)
        expected[largest] = one.flatten()[largest].sign() / 5
        torch.testing.assert_close(step[row].flatten(), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_the_image_s_own_and_inside(norm: Norm) -> None:
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    together = geometry.random_start(x, norm, 0.5, seeds.generators(7, "a", [3, 1, 4, 1, 5]))
    alone = geometry.random_start(x[2:3], norm, 0.5, seeds.generators(7, "a", [4]))
    torch.testing.assert_close(alone, together[2:3], rtol=0, atol=1e-6)
    assert (geometry.norm(together - x, norm) <= 0.5 * (1 + 1e-5)).all()
    assert together.min() >= 0
    assert together.max() <= 1
    others = [seeds.generators(*key) for key in [(8, "a", [3], 0), (7, "b", [3], 0), (7, "a", [3], 1)]]
    for other in others:
        assert not torch.equal(geometry.random_start(x[:1], norm, 0.5, other), together[:1])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", range(1, 9))
@pytest.mark.parametrize("eps", [1e-3, 0.3, 20.0])
def test_random_starts_from_corners_and_edges_are_the_noise_projected_by_bisection(
    norm: Norm, d: int, eps: float
) -> None:
    x = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0, 0.25, 0.0, 1.0])[:d].view(1, 1, 1, d)
    for seed in range(5):
        start = geometry.random_start(x, norm, eps, seeds.generators(seed, "a", [0]))
        noise = geometry.draw(x.double(), seeds.generators(seed, "a", [0]), uniform=norm == "linf")
        if norm == "l1":
            expected = nearest(x.double() + noise, x.double(), norm, eps)
        else:
            expected = (x.double() + eps * noise / geometry.norm(noise, norm)).clamp(0, 1)
        torch.testing.assert_close(start.double(), expected, rtol=0, atol=2e-5)
        assert start.isfinite().all()
        assert start.min() >= 0 and start.max() <= 1
        rounding = d * 1e-7  # of pixels near 1
        assert (geometry.norm(start.double() - x.double(), norm) <= eps + rounding).all()


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10**6), log_eps=st.floats(-6, 1.5))
@settings(max_examples=60, deadline=None)
def test_shrunk_points_are_inside_in_float64(norm: Norm, seed: int, log_eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    eps = 10**log_eps
    x = torch.rand(3, 1, 5, 5, generator=generator).round(decimals=2)
    x_adv = geometry.project(x + 2 * torch.randn(x.shape, generator=generator), x, norm, eps)
    inside = geometry.shrink_inside(x_adv, x, norm, eps)
    assert (geometry.norm(inside.double() - x.double(), norm) <= eps * (1 + 1e-12)).all()
    assert inside.min() >= 0
    assert inside.max() <= 1
    torch.testing.assert_close(inside, x_adv, rtol=0, atol=1e-5)


def test_shrinking_leaves_points_that_are_inside_untouched() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    x_adv = x + 0.01
    assert torch.equal(geometry.shrink_inside(x_adv, x, "l2", 0.5), x_adv)
