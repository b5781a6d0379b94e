"""Compiled code stands for a network if it gives the same, is made once, and is done without where there is none."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustctl.attacks.apgd import apgd
from robustctl.pieces import Pieces
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.attacked import Attacked
from robustctl.training.compiled import Compiled

Backend = Callable[..., Any]
Make = Callable[..., Any]
THREAT = Threat.parse("linf:0.1")
SHAPE = (8, 1, 8, 8)


class Folds(nn.Module):
    """A small network: a copy folds one of its batch norms and freezes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm, self.head = (
            nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.softplus(self.norm(self.conv(self.first(x)))).flatten(1))
        return logits


class Counting:
    """A stand-in for the compiler that runs each graph as it is, and notes the rows of the images it is made for."""

    def __init__(self) -> None:
        self.made: list[tuple[int, bool]] = []  # rows, and whether gradients may be asked for

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Any:
        images = next(one for one in inputs if one.dim() == 4 and one.shape[1:] == SHAPE[1:])
        self.made.append((len(images), torch.is_grad_enabled()))
        return graph.forward


def missing(graph: Any, inputs: list[Tensor]) -> Any:
    """A machine without a compiler."""
    raise RuntimeError("No working C++ compiler found\nand how to find one")


def wrong(graph: Any, inputs: list[Tensor]) -> Any:
    """A compiler with a fault."""
    return lambda *inputs: tuple(out * out.detach().sign() for out in graph.forward(*inputs))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[Backend], None]:
    """Puts something else in the compiler's place."""
    torch._dynamo.reset()
    return lambda backend: monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


def points(attacked: Attacked, x: Tensor) -> Tensor:
    with attacked.oracle(x) as oracle:
        return apgd(oracle, x, torch.arange(len(x)) % 10, THREAT, steps=3)


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def test_a_training_compiles_once_with_and_once_without_gradients(compiler: Any) -> None:
    compiler(counting := Counting())
    torch.manual_seed(0)
    model, x = Folds(), torch.rand(SHAPE)
    attacked, plain = Attacked(model, World(), compiled=True), Attacked(model, World())
    for _ in range(4):
        moved(model)
        torch.testing.assert_close(points(attacked, x), points(plain, x), rtol=0, atol=0)
    assert sorted(counting.made) == [(8, False), (8, True)]


def test_images_in_smaller_numbers_go_through_the_copy_as_it_is(compiler: Any) -> None:
    compiler(counting := Counting())
    model, x = Folds(), torch.rand(SHAPE)
    attacked = Attacked(model, World(), pieces=Pieces(3), compiled=True)
    expected = points(Attacked(model, World()), x)
    torch.testing.assert_close(points(attacked, x), expected, rtol=0, atol=0)  # 3, 3 and 2 images
    with attacked.oracle(x) as oracle:
        oracle.logits(x[:2])
    assert sorted(counting.made) == [(3, False), (3, True)]


def test_a_network_without_a_compiler_runs_as_it_is_and_says_so_in_a_line(
    compiler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler(missing)
    told: list[dict[str, Any]] = []
    model, x = Folds(), torch.rand(SHAPE)
    attacked = Attacked(model, World(), told.append, compiled=True)
    torch.testing.assert_close(points(attacked, x), points(Attacked(model, World()), x), rtol=0, atol=0)
    training = Compiled(model, "training's own passes")
    for _ in range(2):
        torch.testing.assert_close(training(x), model(x), rtol=0, atol=0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "the attacks of this training run uncompiled",
        "training's own passes run uncompiled",
    ]
    assert all("No working C++ compiler found" in line for line in lines)
    assert not told[1]["attacks"] and "No working C++ compiler found" in told[1]["reason"]


def test_compiled_code_that_answers_otherwise_is_not_used(compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    compiler(wrong)
    model, x = Folds(), torch.rand(SHAPE)
    attacked = Attacked(model, World(), compiled=True)
    torch.testing.assert_close(points(attacked, x), points(Attacked(model, World()), x), rtol=0, atol=0)
    assert "differ" in capsys.readouterr().err


@pytest.mark.slow  # the compiler takes a minute
@pytest.mark.parametrize("method", ["e-at", "msd"])
def test_a_compiled_run_takes_the_steps_of_an_eager_one_and_goes_on_bit_for_bit(
    settings_for: Make, make_loop: Make, tmp_path: Path, method: str
) -> None:
    torch._dynamo.reset()

    def weights(folder: str, compiled: bool, *ends: int) -> Tensor:
        for number, end in enumerate(ends):
            settings = settings_for({"name": method}, compile=compiled)
            loop = make_loop(settings, tmp_path / folder, resuming=number > 0, save_seconds=0.0)
            loop.run(max_steps=end)
        return torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()])

    whole = weights("whole", True, 4)
    torch.testing.assert_close(weights("parts", True, 2, 4), whole, rtol=0, atol=0)
    torch.testing.assert_close(weights("eager", False, 4), whole, rtol=0, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["attacks"] for line in lines if line["kind"] == "compiled"] == [True]
