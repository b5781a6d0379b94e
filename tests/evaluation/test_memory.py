"""Batches are halved until memory holds them, and a CPU's memory is not filled in the first place."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import Tensor, nn

from robustctl.errors import RunError
from robustctl.evaluation import memory
from robustctl.evaluation.memory import fitting
from robustctl.pieces import Pieces


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8, 100])
def test_every_row_is_done_once_in_order_and_halving_stays(room: int) -> None:
    pieces, tried = Pieces(8), []

    def work(piece: slice) -> list[int]:
        tried.append(piece.stop - piece.start)
        if tried[-1] > room:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(piece.start, piece.stop))

    for _ in range(2):
        assert list(itertools.chain(*pieces.run(work, 11))) == list(range(11))
    assert sum(size > room for size in tried) <= 3, "what failed once is not tried again"


def test_a_single_row_that_does_not_fit_is_said_and_other_errors_go_on() -> None:
    def full(piece: slice) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    def faulty(piece: slice) -> None:
        raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RunError, match="single image"):
        Pieces(4).run(full, 4)
    with pytest.raises(RuntimeError, match="must match"):
        Pieces(4).run(faulty, 4)


def test_what_the_failed_try_held_is_gone_before_the_next_one() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work(piece: slice) -> int:
        gc.disable()  # the failed try must not wait for the collector
        assert not any(reference() is not None for reference in held)
        graph = torch.zeros(piece.stop - piece.start)
        held.append(weakref.ref(graph))
        if len(graph) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return 1

    try:
        assert sum(Pieces(4).run(work, 2)) == 2
    finally:
        gc.enable()


@pytest.mark.parametrize("available", [10**5, 10**6, 10**7])
def test_what_a_pass_keeps_for_its_gradients_stays_below_half_of_the_memory(
    available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.Flatten())
    model.requires_grad_(False)
    monkeypatch.setattr(memory, "_available_bytes", lambda: available)
    x = torch.rand(1, 1, 16, 16)
    n = fitting(model, x)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(x.repeat(n, 1, 1, 1).requires_grad_(True))
    assert out.requires_grad
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert sum(kept.values()) - weights <= available / 2
    assert sum(kept.values()) >= available / 8, "the bound does not waste the memory either"


def test_on_this_machine_a_small_model_is_not_held_back() -> None:
    assert fitting(nn.Linear(3, 2).requires_grad_(False), torch.rand(1, 1, 1, 3)) > 1000


def test_where_the_memory_is_unknown_there_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available_bytes", lambda: None)
    assert fitting(nn.Linear(3, 2), torch.rand(1, 1, 1, 3)) == memory.NO_LIMIT
