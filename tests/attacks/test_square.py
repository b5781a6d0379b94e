from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustctl import geometry, losses, seeds
from robustctl.attacks.square import _bump, _patch, _pattern, _placed_pattern, _share, _start, _stripe, _unused, square
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat

EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.6, "l1": 2.0}


def images(model: Callable[[Tensor], Tensor], n: int, channels: int = 1, side: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
def test_more_queries_raise_the_margin_and_stay_inside(norm: Norm, conv_model: nn.Module) -> None:
    x, y = images(conv_model, 6)
    threat = Threat(norm, EPS[norm], "")
    margins = []
    with Oracle(conv_model) as oracle:
        for queries in (0, 100):
            x_adv = square(oracle, x, y, threat, queries=queries, generator=seeds.generators(0, "s", range(6)))
            assert (geometry.norm(x_adv.double() - x.double(), norm) <= threat.eps).all()
            assert x_adv.min() >= 0
            assert x_adv.max() <= 1
            margins.append(losses.margin(oracle.logits(x_adv), y))
    assert (margins[1] >= margins[0]).all()
    assert margins[1].mean() > margins[0].mean()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_s_search_does_not_depend_on_its_batch(norm: Norm, linear_model: nn.Module) -> None:
    model = linear_model.double()
    x, y = images(lambda x: model(x.double()), 4, side=4)
    threat = Threat(norm, 0.02, "")
    with Oracle(model) as oracle:
        together = square(oracle, x.double(), y, threat, queries=20, generator=seeds.generators(0, "s", range(4)))
        alone = square(oracle, x[2:3].double(), y[2:3], threat, queries=20, generator=seeds.generators(0, "s", [2]))
    torch.testing.assert_close(alone, together[2:3])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 3), (3, 5, 4), (1, 9, 9)])
@pytest.mark.parametrize("norm", NORMS)
def test_small_and_oblong_images_work(norm: Norm, shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 3))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with Oracle(model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = square(oracle, x, y, Threat(norm, 0.1, ""), queries=5, generator=seeds.generators(0, "s", [0, 1]))
    assert x_adv.isfinite().all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_patterns_have_norm_one_and_halves_of_opposite_sign(norm: Norm, side: int) -> None:
    pattern = _pattern(side, norm, torch.zeros(()))
    assert float(geometry.norm(pattern[None], norm)) == pytest.approx(1)
    assert (pattern[: side // 2] > 0).all()
    assert (pattern[side // 2 :] < 0).all()


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 3), (2, 5), (3, 3), (5, 5), (4, 9)])
def test_a_bump_is_a_pile_of_growing_squares(norm: Norm, power: int, height: int, width: int) -> None:
    expected = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            ring = max(abs(row - height // 2), abs(column - width // 2))
            expected[row, column] = sum(1 / (k + 1) ** power for k in range(ring, max(height, width) // 2 + 1))
    expected /= expected.norm() if norm == "l2" else expected.sum()
    found = _bump(height, width, norm, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("norm", "left"), [("l2", 4.0 - 0.25), ("l1", 2.0 - 0.75)])
def test_what_a_ball_has_left_is_in_the_norm_s_own_power(norm: Norm, left: float) -> None:
    delta = torch.zeros(2, 1, 2, 2)
    delta[0, 0, 0, 0] = 0.5 if norm == "l2" else 0.75
    delta[1] = 7.0  # beyond the ball
    assert _unused(delta, Threat(norm, 2.0, "2")).flatten().tolist() == pytest.approx([left, 0.0])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_query_spends_the_whole_ball(norm: Norm) -> None:
    x = torch.full((8, 2, 9, 9), 0.5, dtype=torch.float64)
    threat = Threat(norm, 0.4, "0.4")  # so small that the box is far away
    generators = seeds.generators(0, "s", range(8))
    best = _start(x, threat, generators)
    draws = torch.stack([torch.rand(5 + 2, generator=generator) for generator in generators]).double()
    tried = _patch(x, best, threat, 0.3, draws)
    for points in (best, tried):
        torch.testing.assert_close(geometry.norm(points - x, norm), torch.full((8,), 0.4, dtype=torch.float64))
    assert not torch.equal(best, tried)


def test_the_windows_shrink_after_the_paper_s_numbers_of_queries() -> None:
    passed = {0: 0, 10: 0, 11: 1, 50: 1, 51: 2, 201: 3, 501: 4, 1001: 5, 2001: 6, 4001: 7, 6001: 8, 8001: 9}
    assert {query: _share(query) for query in passed} == {
        query: 0.8 / 2**halvings for query, halvings in passed.items()
    }


def test_a_stripe_sets_a_window_of_each_channel_to_either_end_of_the_ball() -> None:
    x = torch.full((2, 2, 10, 10), 0.5)
    threat = Threat("linf", 0.25, "0.25")
    best = x + 0.125
    draws = torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.5, 0.1, 0.9], [0.999, 0.999, 0.5, 0.5, 0.5, 0.8, 0.2]])
    changed = _stripe(x, best, threat, 0.16, draws)
    for image, channel, sign in ((0, 0, -1), (0, 1, 1), (1, 0, 1), (1, 1, -1)):
        inside = changed[image, channel] != best[image, channel]
        assert inside.sum() == 16, "a window of 4 x 4 is 0.16 of the image"
        assert (changed[image, channel][inside] == 0.5 + sign * 0.25).all()
    assert (changed[0, 0] != best[0, 0])[:4, :4].all() and (changed[1, 0] != best[1, 0])[6:, 6:].all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_pattern_of_a_patch_has_either_sign(norm: Norm) -> None:
    x = torch.full((1, 1, 9, 9), 0.5, dtype=torch.float64)
    threat = Threat(norm, 0.4, "0.4")
    draws = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.3, 0.1]]).double()
    low, high = (
        _patch(x, x, threat, 0.3, torch.cat([draws[:, :5], torch.tensor([[end]]).double()], 1)) for end in (0.1, 0.9)
    )
    torch.testing.assert_close(low - x, x - high)


@pytest.mark.parametrize("norm", NORMS)
def test_a_tie_is_not_broken_and_the_search_goes_on(norm: Norm) -> None:
    class Tied(nn.Module):
        """Both logits are the same at every point."""

        def forward(self, x: Tensor) -> Tensor:
            """Logits (n, 2)."""
            total = x.flatten(1).sum(1)
            return torch.stack([total, total], 1)

    x, y = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
    with Oracle(Tied().eval()) as oracle:
        square(oracle, x, y, Threat(norm, EPS[norm], ""), queries=7, generator=seeds.generators(0, "s", [0]))
        assert oracle.forwards == 8


def test_the_windows_of_a_patch_have_a_middle() -> None:
    x = torch.full((1, 1, 12, 12), 0.5, dtype=torch.float64)
    draws = torch.full((1, 6), 0.4, dtype=torch.float64)
    for share, side in ((0.01, 3), (0.05, 3), (0.12, 5), (0.17, 5), (0.25, 7), (0.3, 7)):
        changed = _patch(x, x, Threat("l2", 0.4, "0.4"), share, draws) != x
        assert changed.sum() == side**2


def test_the_windows_of_a_patch_lie_where_their_own_draws_say() -> None:
    x = torch.full((1, 1, 12, 12), 0.5, dtype=torch.float64)
    low, high = 0.05, 0.95
    draws = torch.tensor([[low, high, high, low, 0.4, 0.9]], dtype=torch.float64)
    rows, columns = (_patch(x, x, Threat("l2", 0.4, "0.4"), 0.06, draws) != x)[0, 0].nonzero().T
    assert rows.max() < 6 <= columns.min()
    spread = x + 0.01
    emptied = (_patch(x, spread, Threat("l2", 0.4, "0.4"), 0.06, draws) - x).abs()[0, 0] < 1e-12
    rows, columns = emptied.nonzero().T
    assert len(rows) == 9 and columns.max() < 6 <= rows.min()


def test_half_of_the_patterns_lie_on_their_side() -> None:
    x = torch.zeros(2, 1, 8, 8)
    draws = torch.tensor([[0.3, 0.3, 0.4, 0.9, 0.49, 0.5], [0.3, 0.3, 0.4, 0.9, 0.51, 0.5]])
    upright, lying = _placed_pattern(x, 4, "l2", draws)
    assert not torch.equal(upright, lying)
    assert torch.equal(upright[0], lying[0].T)
    assert upright[0, 0].sign().unique().tolist() == [1.0], "the first row is in the upper bump"
