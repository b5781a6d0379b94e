"""Optimisers, penalties on weights, averages of weights."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from robustctl.devices import is_host
from robustctl.recipe.schema import Adam, Optim, Regularize


def is_weight(parameter: nn.Parameter) -> bool:
    """A weight matrix or filter: not a bias, and not a scale or shift of a normalisation."""
    return parameter.dim() > 1


def optimizer(
    model: nn.Module, optim: Optim, lr: float, device: torch.device, *, sharded: bool = False
) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's parameters; fused on a GPU.

    Args:
        sharded: each process of ``torchrun`` keeps the state of its own share of the parameters alone, moves these, and
            sends them to the others (ZeRO's first stage, arXiv:1910.02054, Sec. 5.1).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = [p for p in parameters if optim.decay_on == "weights" and not is_weight(p)]
    decayed = [p for p in parameters if optim.decay_on == "all" or is_weight(p)]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, optim.weight_decay), (plain, 0.0))
        if group
    ]
    kind: type[torch.optim.Optimizer] = torch.optim.Adam if isinstance(optim, Adam) else torch.optim.SGD
    options: dict[str, Any] = {"lr": lr}
    if not isinstance(optim, Adam):
        options |= {"momentum": optim.momentum, "nesterov": optim.nesterov}
    if not sharded:
        return kind(groups, fused=not is_host(device), **options)  # type: ignore[call-arg]
    from torch.distributed.optim import ZeroRedundancyOptimizer

    # It is not fused: a loaded state has Adam's count of steps on the host, where the fused one does not look for it.
    return ZeroRedundancyOptimizer(groups, kind, **options)


def whole_state(optimizer: torch.optim.Optimizer, *, leads: bool) -> dict[str, Any]:
    """The optimiser's whole state in the process that ``leads``, and nothing in the others; all of them call this.

    It is the same whether the state is shared out or not, so that a run may go on with any number of processes.
    """
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict()
    return optimizer.state_dict() if leads else {}


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a whole state, whatever device it was saved on; of one that is shared out each process keeps its own
    part."""
    for group in state["param_groups"]:
        group["fused"] = optimizer.param_groups[0]["fused"]  # it decides where Adam's count of steps is kept
    optimizer.load_state_dict(state)
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.state.clear()  # a second copy of the part, which nobody reads


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
