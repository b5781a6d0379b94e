import pytest
import torch
from torch import nn

from robustctl import geometry, losses
from robustctl.attacks.msd import msd
from robustctl.attacks.pgd import pgd
from robustctl.oracle import Oracle
from robustctl.threats import Threat

THREATS = (Threat.of("linf", "0.1"), Threat.of("l2", "0.5"), Threat.of("l1", "2"))
SIZES = (0.03, 0.15, 0.5)


def test_msd_ends_in_one_of_the_balls_without_lowering_any_loss(conv_model: nn.Module) -> None:
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with Oracle(conv_model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = msd(oracle, x, y, THREATS, step_sizes=SIZES, steps=10)
        gain = losses.ce(oracle.logits(x_adv), y) - losses.ce(oracle.logits(x), y)
    delta = x_adv.double() - x.double()
    inside = torch.stack([geometry.norm(delta, threat.norm) <= threat.eps for threat in THREATS])
    assert inside.any(dim=0).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (gain >= 0).all()
    assert gain.mean() > 0


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_point_is_inside_the_ball_of_the_norm_that_it_took_last(conv_model: nn.Module, threat: Threat) -> None:
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with Oracle(conv_model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = msd(oracle, x, y, [threat], step_sizes=[threat.eps], steps=3)
    assert (geometry.norm(x_adv.double() - x.double(), threat.norm) <= threat.eps).all()


def test_msd_with_one_norm_is_pgd(conv_model: nn.Module) -> None:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with Oracle(conv_model) as oracle:
        y = oracle.logits(x).argmax(1)
        one = msd(oracle, x, y, THREATS[:1], step_sizes=SIZES[:1], steps=5)
        assert torch.equal(one, pgd(oracle, x, y, THREATS[0], steps=5, step_size=SIZES[0]))


def test_each_step_costs_one_gradient_and_one_forward_of_all_norms(conv_model: nn.Module) -> None:
    x = torch.rand(4, 1, 8, 8)
    with Oracle(conv_model) as oracle:
        msd(oracle, x, torch.zeros(4, dtype=torch.long), THREATS, step_sizes=SIZES, steps=5)
        assert (oracle.gradients, oracle.forwards) == (5 * 4, 5 * 4 * 3)
