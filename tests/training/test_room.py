"""Memory that runs out in a training: the step is done again with less, to the same result, and this is said."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustctl.errors import RequestError, RunError
from robustctl.pieces import NO_LIMIT
from robustctl.processes import World
from robustctl.training.loop import Loop
from robustctl.training.retry import retried
from robustctl.training.room import Room

Make = Callable[..., Any]


def full_above(model: nn.Module, rows: int) -> list[int]:
    """Let passes of training run out of memory if they take more images; attacks have a copy of their own."""
    tried: list[int] = []

    def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
        tried.extend([len(inputs[0])] * model.training)
        if model.training and tried[-1] > rows:
            raise torch.OutOfMemoryError("out of memory")

    model.register_forward_pre_hook(look)
    return tried


def memory_lines(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "memory"]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "e-at"},
        {"name": "fgsm", "start": "previous", "step": 1.0},
        {"name": "free", "replays": 2},
        {"name": "mixed"},
        {"name": "mng-ac"},
        {"name": "ramp", "pair": ["linf", "l1"], "weight": 0.5},
    ],
    ids=lambda method: str(method["name"]),
)
@pytest.mark.parametrize("awp", [False, True])
def test_the_step_is_done_again_in_smaller_parts(
    method: dict[str, Any],
    awp: bool,
    settings_for: Make,
    make_loop: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if awp and method["name"] in ("fgsm", "free"):
        pytest.skip("brings its own attack")
    settings = settings_for(method, **({"awp": {"gamma": 0.01}} if awp else {}))
    roomy: Loop = make_loop(settings, tmp_path / "roomy")
    roomy.run(max_steps=4)
    tight: Loop = make_loop(settings, tmp_path / "tight")
    full_above(tight.model, 2)
    tight.run(max_steps=4)
    for found, expected in zip(tight.model.parameters(), roomy.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    told = [line for line in capsys.readouterr().err.splitlines() if "memory ran out" in line]
    assert [line.split("train.micro_batch: ")[1][0] for line in told] == ["4", "2"]
    assert [line["rows"] for line in memory_lines(tmp_path / "tight")] == [4, 2]
    measured = [one.monitor.meter.means() for one in (tight, roomy)]
    assert measured[0].keys() == measured[1].keys()
    assert measured[0]["loss"] == pytest.approx(measured[1]["loss"], rel=1e-5)


def test_memory_that_runs_out_in_the_backward_pass_is_met_in_the_same_way(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for({"name": "e-at"})
    roomy, tight = make_loop(settings, tmp_path / "roomy"), make_loop(settings, tmp_path / "tight")
    roomy.run(max_steps=3)
    backward, failed = Tensor.backward, []

    def once(self: Tensor) -> None:
        backward(self)
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Tensor, "backward", once)
    tight.run(max_steps=3)
    assert failed and tight.context.room.rows == 4
    for found, expected in zip(tight.model.parameters(), roomy.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_resumed_training_takes_no_more_than_before(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    settings = settings_for({"name": "e-at"})
    first = make_loop(settings, tmp_path / "run")
    full_above(first.model, 3)
    first.run(max_steps=3)
    again = make_loop(settings, tmp_path / "run", resuming=True)
    tried = full_above(again.model, 3)
    again.run()
    assert max(tried) <= 2 and len(memory_lines(tmp_path / "run")) == 2


def test_attacks_take_smaller_pieces_by_themselves(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    settings = settings_for({"name": "max"})
    roomy, tight = make_loop(settings, tmp_path / "roomy"), make_loop(settings, tmp_path / "tight")
    roomy.run(max_steps=3)

    def look(model: nn.Module, inputs: tuple[Tensor]) -> None:
        if not model.training and len(inputs[0]) > 3 and tight.context.attacked.reason is not None:
            raise torch.OutOfMemoryError("out of memory")

    tight.context.attacked.reason = "the test looks at the model itself"
    tight.model.register_forward_pre_hook(look)
    tight.run(max_steps=3)
    assert (tight.context.room.attacks.size, tight.context.room.rows) == (2, NO_LIMIT)
    for found, expected in zip(tight.model.parameters(), roomy.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def with_batch_norms() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = block()

    return nn.Sequential(Block(), Block())


def test_batch_norms_keep_their_batch_as_long_as_they_can() -> None:
    room = Room(with_batch_norms())
    assert "no result changes" in room.give_way(8) and room.recompute
    assert "batch norms take their statistics over these" in room.give_way(8)
    assert (room.rows, room.recompute) == (4, True)


def test_what_cannot_be_done_is_said() -> None:
    room = Room(nn.Linear(1, 1), 1)
    with pytest.raises(RunError, match="single image"):
        room.give_way(8)
    with pytest.raises(RequestError, match="no repeated blocks"):
        Room(nn.Linear(1, 1), recompute=True)


def test_several_processes_stop_with_advice(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(settings_for({"name": "natural"}), tmp_path / "run")
    loop.gradients.world = World(0, 2)
    with pytest.raises(RunError, match="train.micro_batch=auto"):
        loop.gradients._give_way(loop._next_batch(loop.position.present), RuntimeError("CUDA out of memory"))


def test_what_the_failed_try_held_is_gone_before_the_next_one_and_other_errors_go_on() -> None:
    held: list[weakref.ref[Tensor]] = []
    gc.disable()  # the failed try must not wait for the collector

    def work() -> int:
        assert all(reference() is None for reference in held)
        graph = torch.zeros(3)
        held.append(weakref.ref(graph))
        if len(held) < 3:
            raise torch.OutOfMemoryError("out of memory")
        return len(graph)

    try:
        assert retried(work, lambda error: None) == 3
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="other"):
        retried(lambda: (_ for _ in ()).throw(RuntimeError("other")), lambda error: None)
