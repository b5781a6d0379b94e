"""The memory that a training takes on an accelerator, by arithmetic: of the weights, and of each image of a batch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustctl.devices import memory_of
from robustctl.modes import kept_modes
from robustctl.pieces import NO_LIMIT
from robustctl.recipe.schema import Adam
from robustctl.training.meter import Meter
from robustctl.training.micro_batches import MicroBatches
from robustctl.training.parts import Parts
from robustctl.training.recompute import lent_buffers
from robustctl.training.room import Room
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

CARDS = (12, 24, 48, 80)
"""Memory of the cards that people have, in GB."""
USABLE = 0.9
"""Share of a card's memory that tensors get; the rest is for the driver, the libraries and gaps between tensors."""
FEW = 2
"""Images that are enough to measure what each one keeps."""
IMAGE_COPIES = 12
"""An attack's own state and its temporaries, in copies of the image."""


@dataclass(frozen=True)
class PerImage:
    """Bytes for each image.

    Attributes:
        whole: what the passes of one step keep of it until the backward pass, if the batch goes through at once.
        part: what one pass keeps of an image of a micro-batch.
    """

    whole: int
    part: int


@dataclass(frozen=True)
class Footprint:
    """Bytes: weights in float32, activations in the training's precision.

    Attributes:
        fixed: weights, gradients, the optimiser's state, copies of the weights.
        kept: for each image, if the blocks of the network are kept; ``twice``: if they are computed twice, or None if
            the network has none.
        waiting: for each image of a batch that goes through in micro-batches: images, points, logits.
        precision: of the activations.
    """

    fixed: int
    kept: PerImage
    twice: PerImage | None
    waiting: int
    precision: str = "float32"

    def total(self, batch: int, rows: int = NO_LIMIT, *, recompute: bool = False) -> int:
        """Bytes of a step on ``batch`` images if ``rows`` images go through the network at once."""
        each = self.twice if recompute and self.twice else self.kept
        if rows >= batch:
            return self.fixed + batch * each.whole
        return self.fixed + batch * self.waiting + rows * each.part

    def largest_batch(self, gigabytes: int) -> int:
        """Images that a card takes at once; 0 if not even one."""
        return max(int((USABLE * gigabytes * 1e9 - self.fixed) // self.kept.whole), 0)

    def rows(self, batch: int, available: float, *, recompute: bool = False) -> int:
        """How many of ``batch`` images may go through at once to take no more than ``available`` bytes; at most all of
        them, and 0 if not even one may."""
        each = self.twice if recompute and self.twice else self.kept
        if self.total(batch, recompute=recompute) <= available:
            return batch
        return min(max(int((available - self.fixed - batch * self.waiting) // each.part), 0), batch - 1)

    def lines(self, batch: int, rows: int = NO_LIMIT, *, recompute: bool = False) -> list[str]:
        """For people: the memory of the training as it is asked for, and what cards of usual sizes take."""
        each = self.twice if recompute and self.twice else self.kept
        one = each.whole if rows >= batch else each.part
        how = (f", {rows} at once" if rows < batch else "") + (", blocks computed twice" if recompute else "")
        largest = ", ".join(f"{self.largest_batch(size)} on {size} GB" for size in CARDS)
        return [
            f"memory on a card: {bytes_(self.total(batch, rows, recompute=recompute))} for batches of {batch}{how} in "
            f"{self.precision} ({bytes_(self.fixed)} and {one / 1e6:.3g} MB per image); the largest batch: {largest}",
            f"batches of {batch} by train.micro_batch: " + "; ".join(self._card(size, batch) for size in CARDS),
        ]

    def _card(self, gigabytes: int, batch: int) -> str:
        """``12 GB: 21 at once, 80 with train.checkpoint``."""
        available = USABLE * gigabytes * 1e9
        plain = self.rows(batch, available)
        text = f"{gigabytes} GB: {_at_once(plain, batch)}"
        if plain == batch or self.twice is None:
            return text
        return f"{text}, {_at_once(self.rows(batch, available, recompute=True), batch)} with train.checkpoint"


def _at_once(rows: int, batch: int) -> str:
    if rows == 0:
        return "too small"
    return "whole" if rows == batch else f"{rows} at once"


def bytes_(size: int) -> str:
    """``4.3 GB`` or ``57 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def footprint(parts: Parts, context: StepContext) -> Footprint:
    """Count what a step of the method keeps of a few images, and twice the largest layer's output for the gradients
    that pass through it. A whole batch's attack is left out: its passes keep less.

    Args:
        parts: their method is prepared; it and the model are as before afterwards.
    """
    one = next(one for one in parts.passes if one.kind == "method")
    x, y = parts.batches.get(0, 0, *one.size, parts.world.part(one.phase.batch_size))
    x, y = x[:FEW].clone(), y[:FEW]  # a slice would keep the whole batch
    remembered = parts.method.remembered()
    with kept_modes(parts.model), lent_buffers(parts.model):
        parts.model.train()
        found = _measured(parts, context, x, y)
    parts.method.recall(remembered)
    return found


def _measured(parts: Parts, context: StepContext, x: Tensor, y: Tensor) -> Footprint:
    def kept(rows: int, recompute: bool, *, method: bool) -> _Ledger:
        room = Room(parts.model, rows, recompute=recompute)
        passes = MicroBatches(parts.model, room)
        step = Step(replace(context, network=passes, passes=passes, meter=Meter()), x, y, 0, points=[x] * 16)
        ledger = _Ledger(parts.model)
        watched = [] if recompute else room.blocks
        with torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda held: held.tensor), ledger.watching(watched):
            out = parts.method.loss(step) if method else passes(x)
        del out
        return ledger

    def each(recompute: bool) -> PerImage:
        whole, part = (kept(NO_LIMIT, recompute, method=method) for method in (True, False))
        again = block if recompute else 0
        sizes = [(one.peak + 2 * plain.largest + again) // len(x) for one in (whole, part)]
        return PerImage(*sizes)

    plain = kept(NO_LIMIT, False, method=False)
    block = plain.largest_block
    waiting = kept(1, False, method=True).peak // len(x) + IMAGE_COPIES * x[0].nbytes
    has_blocks = block > 0
    helper = parts.helper.parameters() if parts.helper else ()
    fixed = _fixed(parts) + sum(one.nbytes for one in helper) + _bytes_in(parts.method.state())
    precision = "bfloat16" if context.autocast.low else "float32"
    return Footprint(fixed, each(False), each(True) if has_blocks else None, waiting, precision)


def fit(parts: Parts, context: StepContext) -> None:
    """Let ``train.micro_batch: auto`` take as many images at once as the memory of the device holds by arithmetic."""
    memory = memory_of(parts.device)
    if parts.settings.train.micro_batch != "auto" or memory is None:  # the memory of the host is not asked for
        return
    remembered = parts.method.remembered()
    parts.method.prepare(lambda _threat, _steps: 0.0, parts.start_norm)  # a step takes as much with any pair
    batch = max(one.phase.batch_size for one in parts.passes) // parts.world.size
    available = USABLE * memory[0] + sum(parameter.nbytes for parameter in parts.model.parameters())
    found = footprint(parts, context)
    parts.method.recall(remembered)
    room = context.room
    room.rows = parts.world.broadcast(max(found.rows(batch, available, recompute=room.recompute), 1))
    room.attacks.size = room.rows


def _fixed(parts: Parts) -> int:
    model, settings = parts.model, parts.settings
    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    copies = (1 if settings.average else 0) + (2 if settings.projection else 0) + (1 if settings.awp else 0)
    folded = 1 if settings.attack else 0  # the copy that attacks run on
    state = optimizer_state(parts) // (parts.world.size if parts.sharded else 1)
    return weights * (2 + copies + folded) + state + buffers


def _bytes_in(value: Any) -> int:
    """Bytes of the tensors that a method keeps from step to step, such as FARE's copy of the start."""
    if isinstance(value, dict | list):
        return sum(map(_bytes_in, value.values() if isinstance(value, dict) else value))
    return value.nbytes if isinstance(value, Tensor) else 0


def optimizer_state(parts: Parts) -> int:
    """Bytes of the optimiser's whole state; natural passes have an optimiser of their own."""
    settings = parts.settings
    trained = sum(parameter.nbytes for parameter in parts.model.parameters() if parameter.requires_grad)
    moments = 2 if isinstance(settings.optim, Adam) else 1
    return trained * moments * (2 if settings.projection or settings.pretrain else 1)


class _Ledger:
    """The bytes that graphs hold at present, and at their peak; the model's own tensors do not count."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self.own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.holders: dict[int, int] = {}
        self.present = self.peak = self.largest = self.largest_block = 0

    @contextmanager
    def watching(self, blocks: list[nn.Module]) -> Iterator[None]:
        """Inside, note how much each of the blocks keeps."""
        begun: list[int] = []

        def end(*_: object) -> None:
            self.largest_block = max(self.largest_block, self.present - begun.pop())

        with ExitStack() as stack:
            for block in blocks:
                stack.callback(block.register_forward_pre_hook(lambda *_: begun.append(self.present)).remove)
                stack.callback(block.register_forward_hook(end).remove)
            yield

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
