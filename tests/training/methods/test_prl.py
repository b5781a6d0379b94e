import pytest
import torch

from robustctl.threats import Threat
from robustctl.training.methods.prl import Config, Method, cvar


def test_cvar_is_the_mean_of_the_worst_share() -> None:
    values = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]])
    assert cvar(values, 0.2).item() == pytest.approx(5)
    assert cvar(values, 0.4).item() == pytest.approx(4.5)
    assert cvar(values, 1.0).item() == pytest.approx(3)


@pytest.mark.parametrize("rho", [0.05, 0.31, 0.77])
def test_cvar_is_the_minimum_over_u(rho: float) -> None:
    values = torch.randn(4, 20, dtype=torch.float64)
    u = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None, None]
    least = (u[..., 0] + (values - u).clamp(min=0).mean(2) / rho).amin(0)
    assert torch.allclose(cvar(values, rho), least, atol=2e-3 / rho)


def test_loss_at_rho_1_is_the_mean_loss_at_random_points(example) -> None:
    config = Config(name="prl", samples=500, rho=1)
    loss = Method(config, (Threat.of("linf", "0.05"),)).loss(example.step())
    clean = torch.nn.functional.cross_entropy(example.model(example.x), example.y)
    assert loss.item() == pytest.approx(clean.item(), rel=0.05)
    assert all(grad.isfinite().all() for grad in example.gradients(loss))
