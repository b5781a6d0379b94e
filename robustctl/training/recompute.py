"""Activation checkpointing: parts of a network forget what they have computed, and compute it again for the backward
pass."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network, in its order: residual blocks, the layers of a transformer; empty if there are
    none.

    A block stands in a ``Sequential`` or ``ModuleList``, has parts with weights, and another one of its class stands in
    such a place. If blocks stand in blocks (a stage holds residual blocks), the inner ones count.
    """
    candidates = [child for module in model.modules() if _is_row(module) for child in module.children()]
    candidates = [one for one in candidates if not _is_row(one) and any(True for _ in one.children())]
    counts = Counter(type(one) for one in candidates)
    repeated = [one for one in candidates if counts[type(one)] > 1 and any(True for _ in one.parameters())]
    chosen = {id(one) for one in repeated}
    return [one for one in repeated if not any(id(part) in chosen for part in one.modules() if part is not one)]


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


@contextmanager
def forgetful(blocks: list[nn.Module]) -> Iterator[None]:
    """Inside, the blocks keep what goes in and forget the rest, until the backward pass computes them again."""
    with ExitStack() as stack:
        for block in blocks:
            before = vars(block).get("forward")
            vars(block)["forward"] = partial(computed_again, block, block.forward)
            stack.callback(_put_back, block, before)
        yield


def computed_again(module: nn.Module, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``work(*args, **kwargs)``, a function of the module; its backward pass computes it again instead of keeping it.

    The second time, dropout draws the same numbers, and the running statistics of batch norms stay.
    """
    if not torch.is_grad_enabled():
        return work(*args, **kwargs)
    return checkpoint(work, *args, use_reentrant=False, context_fn=partial(_once, module), **kwargs)


def _put_back(block: nn.Module, forward: object) -> None:
    del vars(block)["forward"]
    if forward is not None:
        vars(block)["forward"] = forward


def _once(module: nn.Module) -> Contexts:
    """The contexts of the two computations: the second one leaves the statistics of batch norms alone."""
    return nullcontext(), lent_buffers(module)


@contextmanager
def lent_buffers(model: nn.Module) -> Iterator[None]:
    """Inside, the model has copies of its buffers (statistics of batch norms), so that its own do not change.

    They are not written at all, so that no graph which has saved them finds them changed.
    """
    places = [(module._buffers, name, buffer) for module in model.modules() for name, buffer in _own(module)]
    for buffers, name, buffer in places:
        buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for buffers, name, buffer in places:
            buffers[name] = buffer


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in module._buffers.items() if buffer is not None]
