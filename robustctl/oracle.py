"""A classifier frozen for attacks: logits and input gradients, no weight gradients, every mode restored afterwards."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from robustctl.errors import RequestError

Loss = Callable[[Tensor, Tensor], Tensor]


def pick_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU.

    Raises:
        RequestError: a device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


class Oracle:
    """Use as ``with Oracle(model) as oracle``: inside, the model is in eval mode and its parameters are frozen.

    Attributes:
        forwards, gradients: images that went through a forward pass alone, and through forward and backward.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forwards = 0
        self.gradients = 0
        self._modes: list[tuple[nn.Module, bool]] = []
        self._trainable: list[nn.Parameter] = []

    def __enter__(self) -> Self:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.model.eval()
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, mode in self._modes:
            module.training = mode
        for parameter in self._trainable:
            parameter.requires_grad_(True)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k), float32, of images (n, c, h, w) in [0,1]."""
        self.forwards += len(x)
        with torch.no_grad():
            out: Tensor = self.model(x)
        return out.float()

    def exact(self, x: Tensor) -> Tensor:
        """Logits in full float32 whatever the precision of the attack; what breaks a point is confirmed with these."""
        return self.logits(x)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where images must be."""
        return next(self.model.parameters()).device

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, k), per-example loss (n,) and its gradient in x (n, c, h, w); none carries a graph."""
        self.gradients += len(x)
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(x).float()
            values = loss(logits, y)
            (grad,) = torch.autograd.grad(values.sum(), x)
        return logits.detach(), values.detach(), grad
