from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustctl import geometry, losses
from robustctl.attacks.square import _pattern, square
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
            x_adv = square(
                oracle, x, y, threat, queries=queries, generator=geometry.image_generators(0, range(6), "s", 0)
            )
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
        together = square(
            oracle, x.double(), y, threat, queries=20, generator=geometry.image_generators(0, range(4), "s", 0)
        )
        alone = square(
            oracle, x[2:3].double(), y[2:3], threat, queries=20, generator=geometry.image_generators(0, [2], "s", 0)
        )
    torch.testing.assert_close(alone, together[2:3])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 3), (3, 5, 4), (1, 9, 9)])
@pytest.mark.parametrize("norm", NORMS)
def test_small_and_oblong_images_work(norm: Norm, shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 3))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with Oracle(model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = square(
            oracle, x, y, Threat(norm, 0.1, ""), queries=5, generator=geometry.image_generators(0, [0, 1], "s", 0)
        )
    assert x_adv.isfinite().all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_patterns_have_norm_one_and_halves_of_opposite_sign(norm: Norm, side: int) -> None:
    pattern = _pattern(side, norm, torch.zeros(()))
    assert float(geometry.norm(pattern[None], norm)) == pytest.approx(1)
    assert (pattern[: side // 2] > 0).all()
    assert (pattern[side // 2 :] < 0).all()
