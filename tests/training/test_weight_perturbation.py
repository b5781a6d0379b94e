"""Adversarial weight perturbation: the gradient is that at weights moved uphill; the weights come back bit for bit."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods.e_at import Config, Method
from robustctl.training.recompute import lent_buffers
from robustctl.training.weight_perturbation import moved_uphill


def test_weights_move_by_gamma_times_their_layers_length_along_the_gradient() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    loss = F.cross_entropy(net(x), y)
    grads = dict(zip(before, torch.autograd.grad(loss, list(net.parameters()), retain_graph=True), strict=True))
    with moved_uphill(net, loss, 0.01, World()):
        for name, parameter in net.named_parameters():
            expected = before[name]
            if name.endswith("weight"):
                expected = expected + 0.01 * before[name].norm() * grads[name] / grads[name].norm()
            torch.testing.assert_close(parameter, expected, rtol=1e-12, atol=1e-14)
        assert F.cross_entropy(net(x), y) > loss
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_a_layer_without_gradient_stays() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = net[1].weight.detach().clone()
    with moved_uphill(net, net[0](torch.ones(1, 2)).sum(), 0.1, World()):
        assert torch.equal(net[1].weight, before)


def test_statistics_of_batch_norms_come_back() -> None:
    norm = nn.BatchNorm1d(2)
    with lent_buffers(norm):
        norm(torch.rand(4, 2) + 3)
        assert (norm.running_mean > 0).all()
    assert torch.equal(norm.running_mean, torch.zeros(2)) and int(norm.num_batches_tracked) == 0


def test_a_replay_finds_the_same_points_and_draws_without_an_attack(example: Any, monkeypatch: Any) -> None:
    target = Method(Config(name="e-at"), (Threat.of("linf", "0.1"), Threat.of("l1", "1.5")))
    step = example.step(number=5)
    loss = target.loss(step)
    measured = dict(example.meter.means())
    monkeypatch.setattr("robustctl.training.step.climb", None)
    again = target.loss(step.replay())
    assert torch.equal(loss, again)
    assert example.meter.means() == measured, "nothing is measured twice"


def test_one_step_of_a_training_is_a_descent_from_the_moved_weights(
    settings_for: Any, make_loop: Any, tmp_path: Path
) -> None:
    method = {"name": "max"}
    changes = {"optim": {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}}
    plain = make_loop(settings_for(method, **changes), tmp_path / "plain")
    moved = make_loop(settings_for(method, awp={"gamma": 1e-9}, **changes), tmp_path / "tiny")
    far = make_loop(settings_for(method, awp={"gamma": 0.05}, **changes), tmp_path / "far")
    late = make_loop(settings_for(method, awp={"gamma": 0.05, "warmup": 1}, **changes), tmp_path / "late")
    weights = []
    for loop in (plain, moved, far, late):
        loop.run(max_steps=1)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)
    assert not torch.allclose(weights[0], weights[2], rtol=0, atol=1e-4)
    assert torch.equal(weights[0], weights[3]), "before its first epoch it does nothing"
