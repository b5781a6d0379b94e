import pytest
import torch
from torch import nn

from robustctl import geometry, losses
from robustctl.attacks.pgd import pgd
from robustctl.oracle import Oracle
from robustctl.threats import Threat

THREATS = [Threat.of("linf", "0.1"), Threat.of("l2", "0.5"), Threat.of("l1", "1.5")]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_points_lie_in_ball_and_box_and_raise_the_loss(linear_model: nn.Module, threat: Threat) -> None:
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with Oracle(linear_model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = pgd(oracle, x, y, threat, steps=10, step_size=threat.eps / 4)
        before, after = (losses.ce(oracle.logits(points), y) for points in (x, x_adv))
    assert (geometry.norm(x_adv.double() - x.double(), threat.norm) <= threat.eps).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (after > before).all()


def test_linf_point_of_a_linear_two_class_model_is_the_closed_form() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(5, dtype=torch.int64)
    with Oracle(model) as oracle:
        x_adv = pgd(oracle, x, y, THREATS[0], steps=10, step_size=0.02)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 1, 4, 4)
    torch.testing.assert_close(x_adv, (x + 0.1 * weight.sign()).clamp(0, 1))


def test_start_is_where_the_attack_begins(linear_model: nn.Module) -> None:
    x = torch.full((3, 1, 4, 4), 0.5)
    start = x + 0.01
    with Oracle(linear_model) as oracle:
        y = torch.zeros(3, dtype=torch.int64)
        one = pgd(oracle, x, y, THREATS[0], steps=1, step_size=0.001, start=start)
    torch.testing.assert_close((one - start).abs(), torch.full_like(x, 0.001), rtol=0, atol=1e-6)
