import pytest
import torch
from torch import nn

from robustctl import geometry, losses, seeds
from robustctl.attacks.fgsm import fgsm
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat

EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.3, "l1": 1.0}


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_attacks_raise_the_loss_inside_ball_and_box(norm: Norm, conv_model: nn.Module) -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    threat = Threat(norm, EPS[norm], "")
    generators = seeds.generators(0, "fgsm", range(6))
    with Oracle(conv_model) as oracle:
        y = oracle.logits(x).argmax(1)
        plain = fgsm(oracle, x, y, threat)
        started = fgsm(oracle, x, y, threat, step=1.25, generator=generators)
        before = losses.ce(oracle.logits(x), y)
        for x_adv in (plain, started):
            assert (geometry.norm(x_adv.double() - x.double(), norm) <= threat.eps).all()
            assert x_adv.min() >= 0
            assert x_adv.max() <= 1
        assert losses.ce(oracle.logits(plain), y).mean() > before.mean()


def test_fgsm_is_exact_on_a_linear_model_far_from_the_box(linear_model: nn.Module) -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    threat = Threat.of("linf", "0.1")
    with Oracle(linear_model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = fgsm(oracle, x, y, threat, loss=losses.margin)
        grad = oracle.loss_and_grad(x, y, losses.margin)[2]
    torch.testing.assert_close(x_adv, x + 0.1 * grad.sign())
