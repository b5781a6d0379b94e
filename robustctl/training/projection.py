"""Gradient projection with natural training (RAMP, arXiv:2402.06827, Sec. 4.2, equations 4 to 7, Algorithm 2).

In each epoch the same start is trained naturally and adversarially, for one pass each; the two movements are merged
layer by layer. A layer is a parameter tensor; buffers stay as the adversarial pass left them.
"""

from typing import Any

import torch
from torch import Tensor, nn


class GradientProjection:
    """Remembers the start of an epoch and its natural movement until the merge."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.start: dict[str, Tensor] = {}
        self.natural: dict[str, Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        """Before the natural pass."""
        self.start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def rewind(self, model: nn.Module) -> None:
        """After the natural pass: keep its movement, take the model back to the start."""
        self.natural = {name: p - self.start[name] for name, p in model.named_parameters()}
        model.load_state_dict(self.start)

    @torch.no_grad()
    def merge(self, model: nn.Module) -> list[float]:
        """After the adversarial pass: set the merged weights; returns each layer's cosine, in the model's order."""
        cosines = []
        for name, parameter in model.named_parameters():
            adversarial = parameter - self.start[name]
            cosine = layer_cosine(self.natural[name], adversarial)
            parameter.copy_(self.start[name] + merged(self.natural[name], adversarial, cosine, self.beta))
            cosines.append(float(cosine))
        self.start, self.natural = {}, {}
        return cosines

    def state(self) -> dict[str, Any]:
        return {"start": self.start, "natural": self.natural}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        self.start = {name: tensor.to(device) for name, tensor in state["start"].items()}
        self.natural = {name: tensor.to(device) for name, tensor in state["natural"].items()}


def layer_cosine(natural: Tensor, adversarial: Tensor) -> Tensor:
    """The cosine of the two movements of one layer; 0 if one of them is 0 (equation 4)."""
    lengths = natural.norm() * adversarial.norm()
    cosine: Tensor = (natural * adversarial).sum() / lengths.clamp_min(torch.finfo(natural.dtype).tiny)
    return cosine


def merged(natural: Tensor, adversarial: Tensor, cosine: Tensor, beta: float) -> Tensor:
    """``beta`` max(cosine, 0) natural + (1 - ``beta``) adversarial (equations 5 to 7)."""
    return beta * cosine.clamp_min(0) * natural + (1 - beta) * adversarial
