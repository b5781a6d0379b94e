import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import nn

from robustctl import geometry
from robustctl.attacks.fab import PEER_NORM, fab
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat


@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_points_that_the_package_finds(linear_model: nn.Module, norm: Norm) -> None:
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    eps = {"linf": 0.1, "l2": 0.3, "l1": 1.0}[norm]
    with torch.no_grad():
        y = linear_model(x).argmax(1)
    peer = FABAttack_PT(linear_model, n_restarts=1, n_iter=10, eps=eps, norm=PEER_NORM[norm], device=x.device)
    peer.targeted, peer.n_target_classes = True, 3
    with torch.random.fork_rng():
        theirs = peer.perturb(x, y)
    with Oracle(linear_model) as oracle:
        ours = fab(oracle, x, y, Threat(norm, eps, ""), steps=10, targets=3)
    within = geometry.norm(theirs - x, norm) <= eps
    moved = (theirs != x).flatten(1).any(1)
    assert (within & moved).any()
    torch.testing.assert_close(ours[within], theirs[within], rtol=0, atol=1e-6)
    assert (geometry.norm(ours.double() - x.double(), norm) <= eps).all()


def test_fab_leaves_the_random_state_and_the_modes_alone(linear_model: nn.Module) -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    linear_model.train()
    state = torch.get_rng_state()
    with Oracle(linear_model) as oracle:
        fab(oracle, x, torch.tensor([0, 1]), Threat.of("l2", "0.3"), steps=2, targets=9)
    assert torch.equal(torch.get_rng_state(), state)
    assert linear_model.training
