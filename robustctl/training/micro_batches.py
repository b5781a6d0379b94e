"""The forward pass of training in micro-batches: a method sees a whole batch, and the network takes a part at a time.

The network forgets what the layers of a part have given until the backward pass comes to that part and computes them
again. So a loss is the whole batch's, whatever the method makes of the logits, and a step keeps what one part needs; it
costs one forward pass more. The gradients equal the gradients of one pass, up to rounding. Batch norms are the
exception: they normalise each part by its own statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustctl.training.compiled import Compiled
from robustctl.training.recompute import computed_again, forgetful
from robustctl.training.room import Room

Work = Callable[[Tensor], Tensor]


class MicroBatches(nn.Module):
    """The network as training's forward pass sees it.

    Args:
        model: the classifier.
        room: how many images go through it at once; it may change between steps.
        compiled: whether ``torch.compile`` makes it faster first.
    """

    def __init__(self, model: nn.Module, room: Room, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.room = model, room
        self.network = Compiled(model, "training's own passes") if compiled else model

    def forward(self, x: Tensor, work: Work | None = None) -> Tensor:
        """Logits (n, k) of images (n, c, h, w), or the rows that ``work`` gives, as ``run``."""
        return self.run(work or self.network, x)

    def run(self, work: Work, x: Tensor) -> Tensor:
        """Rows that ``work``, some function of the model, gives for images (n, c, h, w)."""
        parts = self.room.parts(len(x))
        if len(parts) == 1:
            return self._pass(work, x)
        with slower_statistics(self.model, len(parts)):
            # Parts of nearly equal size: no batch norm has to do with a few images that are left over.
            out = [computed_again(self.model, partial(self._pass, work), x[part]) for part in parts]
        return torch.cat(out)

    def _pass(self, work: Work, x: Tensor) -> Tensor:
        with forgetful(self.room.blocks) if self.room.recompute else nullcontext():
            return work(x)


@contextmanager
def slower_statistics(model: nn.Module, n_parts: int) -> Iterator[None]:
    """Inside, the running statistics of batch norms move by so much less that ``n_parts`` passes move them as far as
    one.

    So they are a mean over as many images as with whole batches.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.momentum]
    before = [norm.momentum for norm in norms]
    for norm, momentum in zip(norms, before, strict=True):
        assert momentum is not None
        norm.momentum = 1 - (1 - momentum) ** (1 / n_parts)
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
