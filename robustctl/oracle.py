"""A classifier frozen for attacks: logits and input gradients, no weight gradients, every mode restored afterwards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from robustctl import geometry, losses
from robustctl.architectures import device_of
from robustctl.devices import true_float32
from robustctl.fast_copy import FastCopy
from robustctl.modes import frozen
from robustctl.pieces import Pieces
from robustctl.precision import Precision
from robustctl.trusted_copy import Trusted

Loss = Callable[[Tensor, Tensor], Tensor]
DRAWS = 20
"""Passes that the gradients of a random model are averaged over, as in AutoAttack's version for such models."""


class Oracle:
    """Use as ``with Oracle(model) as oracle``: inside, the model is in eval mode and its parameters are frozen.

    Args:
        fast: what ``trusted_copy`` returned for this model; None attacks the live model as it is. Changes of the
            model's weights reach a copy by its ``refresh`` alone.
        draws: passes that logits, losses and gradients are averaged over: 1, or more for a random model (expectation
            over transformation, arXiv:1802.00420).
        pieces: in which batches are taken through the network; None takes them whole.

    Attributes:
        attacked: the network that attacks run on.
        precision: the precision that it computes in.
        forwards, gradients: images that went through a forward pass alone, and through forward and backward.
    """

    def __init__(
        self, model: nn.Module, fast: Trusted | None = None, draws: int = 1, pieces: Pieces | None = None
    ) -> None:
        self.model = model
        self.draws = draws
        self.pieces = pieces
        self.precision: Precision = fast.precision if fast else "float32"
        self.attacked = fast.network if fast else model
        self.forwards = 0
        self.gradients = 0
        self._frozen = ExitStack()

    def __enter__(self) -> Self:
        self._frozen.enter_context(frozen(self.model))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frozen.close()

    @property
    def evaluations(self) -> float:
        """The spending of the attacks: passes with an input gradient, and half of one for each forward pass alone."""
        return self.gradients + self.forwards / 2

    @property
    def device(self) -> torch.device:
        """The device of the model, on which images must be too."""
        return device_of(self.model)

    @contextmanager
    def in_float32(self, image: Tensor) -> Iterator[None]:
        """Inside, a copy in float32 is attacked. A copy in bf16 is trusted only if this one was found equal before.

        Args:
            image: any image (1, c, h, w), on the model's device.
        """
        before = self.precision, self.attacked
        self.precision, self.attacked = "float32", FastCopy(self.model, "float32", image).network
        try:
            yield
        finally:
            self.precision, self.attacked = before

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k), float32, of images (n, c, h, w) in [0,1]."""
        self.forwards += self.draws * len(x)
        with torch.no_grad():
            if self.pieces is None or not len(x):
                return self._mean_of(self.attacked, x)
            return torch.cat(self.pieces.run(lambda rows: self._mean_of(self.attacked, x[rows]), len(x)))

    def exact(self, x: Tensor) -> Tensor:
        """Logits of the model itself, in true float32; what breaks a point is confirmed with these."""
        self.forwards += self.draws * len(x)
        with torch.no_grad(), true_float32(self.device):
            return self._mean_of(self.model, x)

    def exact_for(self, x: Tensor, y: Tensor) -> Tensor:
        """The same as ``exact``; for a random model the logits of the draw that is better for the model than three of
        four.

        A margin above 0 then says that most draws are wrong, and that fresh ones will mostly agree.

        Args:
            y: labels (n,).
        """
        if self.draws == 1:
            return self.exact(x)
        self.forwards += self.draws * len(x)
        with torch.no_grad(), true_float32(self.device):
            drawn = torch.stack([self._run(self.model, x) for _ in range(self.draws)])
        margins = torch.stack([losses.margin(logits, y) for logits in drawn])
        chosen = margins.argsort(dim=0)[self.draws // 4]  # three of four draws have a larger margin than this one
        return drawn[chosen, torch.arange(len(x), device=x.device)]

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, k), per-example loss (n,) and its gradient in x (n, c, h, w); none carries a graph.

        Args:
            loss: of logits and labels; the loss of a row depends on this row alone.
            exact: in true float32: of the copy if it computes in float32, else of the model itself.
        """
        if self.pieces is None or not len(x):
            return self._loss_and_grad(x, y, loss, exact)
        parts = self.pieces.run(lambda rows: self._loss_and_grad(x[rows], y[rows], loss, exact), len(x))
        logits, values, grad = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
        return logits, values, grad

    def _loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
        self.gradients += self.draws * len(x)
        x = x.detach().requires_grad_(True)
        network = self.model if exact and self.precision != "float32" else self.attacked
        parts = []
        with torch.enable_grad(), true_float32(self.device) if exact else nullcontext():
            for _ in range(self.draws):
                logits = self._run(network, x)
                values = loss(logits, y)
                # In eval mode images do not touch each other, so the sum's gradient is each image's own.
                (grad,) = torch.autograd.grad(values.sum(), x)
                parts.append((logits.detach(), values.detach(), grad))
        if self.draws == 1:
            return parts[0]
        logits, values, grad = (torch.stack(part).mean(dim=0) for part in zip(*parts, strict=True))
        return logits, values, grad

    def _mean_of(self, network: nn.Module, x: Tensor) -> Tensor:
        if self.draws == 1:
            return self._run(network, x)
        return torch.stack([self._run(network, x) for _ in range(self.draws)]).mean(dim=0)

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Logits in float32; in float64 if the images are.

        A model's own code may rely on the order of the pixels; copies bring them into theirs.
        """
        logits: Tensor = network(geometry.contiguous(x) if network is self.model else x)
        return logits if logits.dtype == x.dtype == torch.float64 else logits.float()
