"""Modes of a network: whoever changes them puts them back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(network: nn.Module) -> Iterator[None]:
    """Afterwards each submodule is in the mode that it had before, training or eval."""
    # Module by module: some may be in eval mode on purpose (batch norms), and ``train()`` at the end would wake them.
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode, and its parameters get no gradients, which shortens a backward pass."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with kept_modes(network):
        network.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
