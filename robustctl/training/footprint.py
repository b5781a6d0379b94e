"""The memory that a training takes on an accelerator, by arithmetic: of the weights, and of each image of a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustctl.recipe.schema import Adam, Settings
from robustctl.training.parts import Parts
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

CARDS = (12, 24, 48, 80)
"""Memory of the cards that people have, in GB."""
USABLE = 0.9
"""Share of a card's memory that tensors get; the rest is for the driver, the libraries and gaps between tensors."""
FEW = 2
"""Images that are enough to measure what each one keeps."""


@dataclass(frozen=True)
class Footprint:
    """Bytes in float32.

    Attributes:
        fixed: weights, gradients, the optimiser's state, copies of the weights.
        per_image: what the passes of one step keep of an image until the backward pass.
    """

    fixed: int
    per_image: int

    def total(self, batch_size: int) -> int:
        """Bytes of a step."""
        return self.fixed + batch_size * self.per_image

    def largest_batch(self, gigabytes: int) -> int:
        """Images that a card holds; 0 if not even one."""
        return max(int((USABLE * gigabytes * 1e9 - self.fixed) // self.per_image), 0)

    def line(self, batch_size: int) -> str:
        """For people."""
        cards = ", ".join(f"{self.largest_batch(size)} on {size} GB" for size in CARDS)
        return (
            f"memory on a card: {_bytes(self.total(batch_size))} for batches of {batch_size} in float32 "
            f"({_bytes(self.fixed)} and {self.per_image / 1e6:.3g} MB per image); the largest batch: {cards}"
        )


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def footprint(parts: Parts, context: StepContext) -> Footprint:
    """Count what a step of the method keeps of a few images, and twice the largest layer's output for the gradients
    that pass through it. The attack is left out: its passes keep less.

    Batch norms take these images into their running statistics, so that the model is changed.
    """
    one = next(one for one in parts.passes if one.kind == "method")
    x, y = parts.batches.get(0, 0, *one.size, parts.world.part(one.phase.batch_size))
    x, y = x[:FEW].clone(), y[:FEW]  # a slice would keep the whole batch
    ledger = _Ledger(parts.model)
    step = Step(context, x, y, 0, points=[x] * 16)
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda held: held.tensor):
        loss = parts.method.loss(step)
    del loss
    helper = parts.helper.parameters() if parts.helper else ()
    fixed = _fixed(parts.model, parts.settings) + sum(one.nbytes for one in helper)
    return Footprint(fixed, (ledger.peak + 2 * ledger.largest) // len(x))


def _fixed(model: nn.Module, settings: Settings) -> int:
    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    optimizer = (2 if isinstance(settings.optim, Adam) else 1) * (2 if settings.projection else 1)
    copies = (1 if settings.average else 0) + (2 if settings.projection else 0) + (1 if settings.awp else 0)
    folded = 1 if settings.attack else 0  # the copy that attacks run on
    return weights * (2 + optimizer + copies + folded) + buffers


class _Ledger:
    """The bytes that graphs hold at present, and at their peak; the model's own tensors do not count."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self.own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.holders: dict[int, int] = {}
        self.present = self.peak = self.largest = 0

    def pack(self, tensor: Tensor) -> "_Held":
        return _Held(tensor, self)

    def take(self, storage: Any) -> None:
        place = storage.data_ptr()
        if place in self.own:
            return
        self.holders[place] = self.holders.get(place, 0) + 1
        if self.holders[place] == 1:
            self.present += storage.nbytes()
            self.peak = max(self.peak, self.present)
            self.largest = max(self.largest, storage.nbytes())

    def drop(self, storage: Any) -> None:
        place = storage.data_ptr()
        if place in self.own:
            return
        self.holders[place] -= 1
        if self.holders[place] == 0:
            del self.holders[place]
            self.present -= storage.nbytes()


class _Held:
    """A tensor that a graph keeps until its backward pass."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor, self.ledger = tensor, ledger
        ledger.take(tensor.untyped_storage())

    def __del__(self) -> None:
        self.ledger.drop(self.tensor.untyped_storage())
