"""A network behind ``torch.compile``, and the network as it is for all that cannot be compiled.

The compiler makes a few loops over memory of all operations between two convolutions. It takes seconds, which pay over
thousands of passes. Compiled code reads the weights at every pass: weights that change in place compile nothing anew.
"""

import torch
from torch import Size, Tensor, nn

from robustctl import geometry
from robustctl.progress import say


class Compiled(nn.Module):
    """Runs the network compiled; if that fails, as it is from there on, which is said once.

    Args:
        network: keeps its layers.
        name: what runs uncompiled then, for people.

    Attributes:
        shape: images (n, c, h, w) of this shape alone go through compiled code; None: all, and code for any number of
            images is made when a second number comes.
        reason: why the network runs as it is; empty if it does not.
    """

    def __init__(self, network: nn.Module, name: str, shape: Size | None = None) -> None:
        from torch._dynamo.exc import TorchDynamoException  # takes seconds, as the compiler does

        super().__init__()
        self.network, self.name, self.shape = network, name, shape
        self.reason = ""
        self._failure = TorchDynamoException
        # A function that calls it: of a module with hooks these would be compiled by themselves.
        self._compiled = torch.compile(lambda x: network(x), dynamic=None if shape is None else False)

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the network gives for images (n, c, h, w)."""
        if self.reason or (self.shape is not None and x.shape != self.shape):
            return self.network(x)  # type: ignore[no-any-return]
        try:
            # One order of the pixels, since code is made for each.
            return self._compiled(x if self.shape is None else geometry.contiguous(x))  # type: ignore[no-any-return]
        except self._failure as error:
            inner = getattr(error, "inner_exception", error)  # the compiler's own
            self.give_up(f"{type(inner).__name__}: {(str(inner).strip().splitlines() or [''])[0]}")
        return self.network(x)  # type: ignore[no-any-return]

    def give_up(self, reason: str) -> None:
        """Run the network as it is from here on."""
        self.reason = reason
        say(f"{self.name} run uncompiled: {reason}")
