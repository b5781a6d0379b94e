"""Modes of a network: inside the blocks, and afterwards, whatever happened inside."""

import pytest
import torch
from torch import nn

from robustctl.modes import frozen, kept_modes


def network() -> nn.Sequential:
    """A network in training mode with a part in eval mode and a parameter that is not trained."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    net[1].eval()
    net[0].bias.requires_grad_(False)
    return net


def test_each_part_has_its_own_mode_again_also_after_an_error() -> None:
    net = network()
    with pytest.raises(ValueError, match="inside"), kept_modes(net):
        net.eval()
        raise ValueError("inside")
    assert [part.training for part in net.modules()] == [True, True, False, True]
    with kept_modes(net):
        net.train()
    assert not net[1].training


def test_a_frozen_network_has_gradients_of_its_input_alone_and_is_as_before_afterwards() -> None:
    net = network()
    trainable = [parameter.requires_grad for parameter in net.parameters()]
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    with frozen(net):
        assert not any(part.training for part in net.modules())
        net(x).sum().backward()
    assert x.grad is not None and all(parameter.grad is None for parameter in net.parameters())
    assert [parameter.requires_grad for parameter in net.parameters()] == trainable and trainable[1] is False
    assert [part.training for part in net.modules()] == [True, True, False, True]
