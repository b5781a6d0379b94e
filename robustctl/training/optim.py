"""Optimisers, penalties on weights, averages of weights."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustctl.devices import is_host
from robustctl.recipe.schema import Adam, Optim, Regularize


def is_weight(parameter: nn.Parameter) -> bool:
    """A weight matrix or filter: not a bias, and not a scale or shift of a normalisation."""
    return parameter.dim() > 1


def optimizer(model: nn.Module, optim: Optim, lr: float, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's parameters; fused on a GPU."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = [p for p in parameters if optim.decay_on == "weights" and not is_weight(p)]
    decayed = [p for p in parameters if optim.decay_on == "all" or is_weight(p)]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, optim.weight_decay), (plain, 0.0))
        if group
    ]
    fused = not is_host(device)
    if isinstance(optim, Adam):
        return torch.optim.Adam(groups, lr=lr, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def penalty(model: nn.Module, regularize: Regularize) -> Tensor:
    """``l1`` sum |w| + ``l2`` sum w^2 over weights, a scalar with a graph (thesis 2.3.6)."""
    weights = [parameter for parameter in model.parameters() if is_weight(parameter)]
    l1 = torch.stack([weight.abs().sum() for weight in weights]).sum()
    l2 = torch.stack([weight.square().sum() for weight in weights]).sum()
    total: Tensor = regularize.l1 * l1 + regularize.l2 * l2
    return total


def grad_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """l_2 norm of the whole gradient, a scalar on the device."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads]))
    return total


class WeightAverage:
    """Exponential moving average of a model: parameters are averaged, buffers copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model by ``1 - decay``."""
        for mean, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter, 1 - self.decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
