"""A classifier frozen for attacks: logits and input gradients, no weight gradients, every mode restored afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from robustctl import geometry
from robustctl.architectures import device_of
from robustctl.errors import RequestError
from robustctl.fast_copy import accelerate
from robustctl.precision import Precision, true_float32
from robustctl.trusted_copy import Trusted

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

    Args:
        fast: what ``trusted_copy`` returned for this model; None attacks the live model as it is. Changes of the
            model's weights do not reach a copy.

    Attributes:
        attacked: the network that attacks run on.
        precision: the precision that it computes in.
        forwards, gradients: images that went through a forward pass alone, and through forward and backward.
    """

    def __init__(self, model: nn.Module, fast: Trusted | None = None) -> None:
        self.model = model
        self.precision: Precision = fast.precision if fast else "float32"
        self.attacked = fast.network if fast else model
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

    @property
    def device(self) -> torch.device:
        """Where the model is, and where images must be."""
        return device_of(self.model)

    @contextmanager
    def in_float32(self, image: Tensor) -> Iterator[None]:
        """Inside, a copy in float32 is attacked. A copy in bf16 is trusted only if this one was found equal before.

        Args:
            image: any image (1, c, h, w), on the model's device.
        """
        before = self.precision, self.attacked
        self.precision, self.attacked = "float32", accelerate(self.model, "float32", image)
        try:
            yield
        finally:
            self.precision, self.attacked = before

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k), float32, of images (n, c, h, w) in [0,1]."""
        self.forwards += len(x)
        with torch.no_grad():
            return self._run(self.attacked, x)

    def exact(self, x: Tensor) -> Tensor:
        """Logits of the model itself, in true float32; what breaks a point is confirmed with these."""
        self.forwards += len(x)
        with torch.no_grad(), true_float32(self.device):
            return self._run(self.model, x)

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, k), per-example loss (n,) and its gradient in x (n, c, h, w); none carries a graph.

        Args:
            exact: of the model itself in true float32, as ``exact`` has it.
        """
        self.gradients += len(x)
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), true_float32(self.device) if exact else nullcontext():
            logits = self._run(self.model if exact else self.attacked, x)
            values = loss(logits, y)
            (grad,) = torch.autograd.grad(values.sum(), x)
        return logits.detach(), values.detach(), grad

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Logits in float32. A model's own code may rely on the order of the pixels; copies bring them into theirs."""
        logits: Tensor = network(geometry.contiguous(x) if network is self.model else x)
        return logits if logits.dtype == torch.float64 else logits.float()
