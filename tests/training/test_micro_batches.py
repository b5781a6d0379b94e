"""Micro-batches and blocks that are computed twice: the step is that of the whole batch; what batch norms do is as
documented."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import METHODS, cases
from torch import Tensor, nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.pieces import NO_LIMIT
from robustctl.spec import ModelSpec
from robustctl.training.loop import Loop
from robustctl.training.micro_batches import MicroBatches
from robustctl.training.recompute import blocks_of
from robustctl.training.room import Room

CASES = cases("ramp", but=("fgsm-uniform", "ramp-auto", "adam", "bf16"))
STEPS = 6
Make = Callable[..., Any]


def trained(settings: Any, directory: Path, make_loop: Make, steps: int = STEPS, **train: Any) -> Loop:
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=train)})
    loop: Loop = make_loop(settings, directory)
    loop.run(max_steps=steps)
    return loop


def assert_same(one: Loop, other: Loop, off: float = 2e-6) -> None:
    for (name, tensor), expected in zip(one.kept.state_dict().items(), other.kept.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=off, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_steps_in_micro_batches_are_those_of_whole_batches(
    case: str, settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    method, changes = CASES[case]
    settings = settings_for(method, **changes)
    whole = trained(settings, tmp_path / "whole", make_loop)
    parts = trained(settings, tmp_path / "parts", make_loop, micro_batch=3)
    assert_same(parts, whole)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "parts")]
    assert lines[0] == lines[1]


HAT = {
    "outer": {"name": "hat", "helper": "given"},
    "attack": {"name": "apgd", "steps": 2, "start": "random"},
}


@pytest.mark.parametrize(("method", "changes"), [("z-mc", {}), ("mng-ac", {}), ("e-at", HAT)])
def test_no_more_images_go_through_any_network_at_once(
    method: str, changes: dict[str, Any], settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    seen: list[int] = []
    settings = settings_for(METHODS[method], **changes)
    helper = make_loop(settings_for(METHODS["natural"]), tmp_path / "helper").model if changes else None
    loop = make_loop(
        settings.model_copy(update={"train": settings.train.model_copy(update={"micro_batch": 5})}),
        tmp_path / "run",
        helper=helper,
    )
    networks = [loop.model.net, *([helper.net] if helper else [])]
    for net in networks:
        assert isinstance(net, nn.Sequential)
        net[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    loop._begin_pass()
    loop._one_step(loop.position.present)
    assert len(seen) > 5 and max(seen) <= 5, seen


def network(kind: str) -> nn.Module:
    """A network with batch norms and blocks, or layer norms and blocks, or dropout."""
    names = {"batch": ("wide-resnet", {"depth": 10, "width": 1}), "block": ("preact-resnet18", {})}
    name, args = names[kind]
    values = {
        "input_shape": (3, 16, 16),
        "n_classes": 4,
        "dataset": "none",
        "architecture": {"name": name, "args": args},
    }
    torch.manual_seed(0)
    return build(ModelSpec.model_validate(values)).double().train()


def gradients(model: nn.Module, passes: MicroBatches, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    passes(x).square().mean().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["batch", "block"])
def test_blocks_that_are_computed_twice_give_the_same_bits(kind: str) -> None:
    model, x = network(kind), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    other = copy.deepcopy(model)
    expected = gradients(other, MicroBatches(other, Room(other)), x)
    assert len(blocks_of(model)) in (3, 8)
    found = gradients(model, MicroBatches(model, Room(model, recompute=True)), x)
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, model.buffers(), other.buffers())), "the statistics moved once"
    assert not any("forward" in vars(module) for module in model.modules()), "the network is as it was"


@pytest.mark.parametrize("recompute", [False, True])
def test_batch_norms_normalise_each_micro_batch_and_count_as_many_images(recompute: bool) -> None:
    model, x = network("batch"), torch.rand(8, 3, 16, 16, dtype=torch.float64)
    other = copy.deepcopy(model)
    parts = MicroBatches(model, Room(model, 4, recompute=recompute))
    found = gradients(model, parts, x)
    for norm in (module for module in other.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1 - (1 - 0.1) ** 0.5
    outputs = torch.cat([other(x[:4]), other(x[4:])])
    outputs.square().mean().backward()
    for one, parameter in zip(found, other.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-10, atol=1e-14)
    for one, expected in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=0)
    assert {norm.momentum for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}


def test_dropout_draws_the_same_numbers_the_second_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1, bias=False)).double()
    x = torch.rand(6, 1, 2, 2, dtype=torch.float64)
    logits = MicroBatches(model, Room(model, 2))(x)
    (grad,) = torch.autograd.grad(logits.sum(), [model[3].weight])
    torch.testing.assert_close((grad * model[3].weight).sum(), logits.sum())  # true only of the same masks


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(rows: int, recompute: bool) -> int:
        model, x = network("block"), torch.rand(8, 3, 16, 16, dtype=torch.float64)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.data_ptr()] = 0 if tensor.data_ptr() in own else tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = MicroBatches(model, Room(model, rows, recompute=recompute))(x)
        assert out.requires_grad
        return sum(held.values())

    whole = kept(NO_LIMIT, False)
    assert kept(NO_LIMIT, True) < whole / 3
    assert kept(2, False) < whole / 50


def test_a_training_goes_on_in_the_same_micro_batches(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    settings = settings_for(METHODS["ramp"], average={"decay": 0.9})
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"micro_batch": 3})})
    make_loop(settings, tmp_path / "one").run()
    make_loop(settings, tmp_path / "two").run(max_steps=4)
    make_loop(settings, tmp_path / "two", resuming=True).run()
    one, two = (checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
