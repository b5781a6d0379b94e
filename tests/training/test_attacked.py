"""Training attacks a fast copy with the present weights, or the model itself where the two are not equal."""

import dataclasses
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training import methods
from robustctl.training.attacked import Attacked
from robustctl.training.build import make_method
from robustctl.training.meter import Meter
from robustctl.training.methods import z_ps
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

Make = Callable[..., Any]
ATTACKING: dict[str, dict[str, Any]] = {
    "at": {"name": "at"},
    "avg": {"name": "avg"},
    "e_at": {"name": "e-at"},
    "fgsm": {"name": "fgsm", "start": "uniform", "step": 1.25},
    "max": {"name": "max"},
    "mixed": {"name": "mixed"},
    "mng_ac": {"name": "mng-ac", "rate": 0.01},
    "msd": {"name": "msd"},
    "ramp": {"name": "ramp", "pair": ["linf", "l1"], "weight": 0.5},
    "rcrt": {"name": "rcrt", "order": ["linf", "l2", "l1"], "every": 1, "steps": 2, "known": "max"},
    "sat": {"name": "sat"},
}
WITHOUT_ORACLE = {"free", "natural", "prl", "z_mc"}
"""They look for no points beforehand: their gradients are those of the training's own passes."""

OF_EMBEDDINGS = {"fare"}
"""They attack an inner part of the live model, which a copy of the whole does not give."""


class Folds(nn.Module):
    """A small network, whose batch norms a copy folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.softplus(self.norm(self.conv(x))).flatten(1))
        return logits


class Moody(Folds):
    """Its answer depends on how often it was asked, which no comparison survives."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(x) * (1 + self.asked % 3)


def context(model: nn.Module, settings: Any, seen: list[Tensor], attacked: Attacked) -> StepContext:
    """A training's surroundings that note the points which are trained on."""
    made = StepContext.of(model, settings, Meter(), World(), 0, torch.device("cpu"), lambda line: None)

    def network(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return model(x)  # type: ignore[no-any-return]

    return dataclasses.replace(made, network=network, attacked=attacked)


def live(model: nn.Module) -> Attacked:
    """Attacks of the model itself."""
    found = Attacked(model, World())
    found.load_state("a test asks for it")
    return found


def trained_on(name: str, settings_for: Make, attacked: Callable[[nn.Module], Attacked]) -> list[Tensor]:
    """The points of two steps; the weights and statistics move in between."""
    torch.manual_seed(0)
    model, seen = Folds(), list[Tensor]()
    settings = settings_for(ATTACKING.get(name, ATTACKING["at"]))
    method = make_method(settings)
    if name == "z_ps":
        config = z_ps.Config(name="z-ps", samples=3, q=5, leapfrog=2)
        method = z_ps.Method(config, (Threat.parse("linf:0.1"),))
    around = context(model, settings, seen, attacked(model))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    for number in range(2):
        model.train()
        method.loss(Step(around, x, y, number)).backward()  # type: ignore[no-untyped-call]
        assert model.training and all(parameter.requires_grad for parameter in model.parameters())
        torch.manual_seed(number)
        with torch.no_grad():  # the same for both, so that the second step begins alike
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    return seen


@pytest.mark.parametrize("name", sorted({*ATTACKING, "z_ps"}))
def test_every_method_trains_on_the_points_that_the_model_itself_would_give(name: str, settings_for: Make) -> None:
    found = trained_on(name, settings_for, lambda model: Attacked(model, World()))
    expected = trained_on(name, settings_for, live)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        apart = (one - other).abs() > 1e-4  # a step by the sign of a gradient moves a pixel where this is almost 0
        assert apart.float().mean() < 0.01


def test_no_method_is_left_out() -> None:
    files = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    assert files == {*ATTACKING, "z_ps", *WITHOUT_ORACLE, *OF_EMBEDDINGS}


def test_the_copy_is_compared_once_and_the_answer_is_told() -> None:
    told: list[dict[str, Any]] = []
    model, x = Folds(), torch.rand(4, 1, 8, 8)
    attacked = Attacked(model, World(), told.append)
    for _ in range(3):
        with attacked.oracle(x) as oracle:
            assert oracle.attacked is not model
    assert told == [{"kind": "attacked", "fast_copy": True, "reason": ""}]
    again = Attacked(model, World(), told.append)
    again.load_state(attacked.state())
    with again.oracle(x) as oracle:
        assert oracle.attacked is not model
    assert len(told) == 1


def test_a_model_that_no_copy_repeats_is_attacked_itself_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[dict[str, Any]] = []
    model, x = Moody(), torch.rand(4, 1, 8, 8)
    attacked = Attacked(model, World(), told.append)
    with attacked.oracle(x) as oracle:
        assert oracle.attacked is model
    assert not told[0]["fast_copy"] and told[0]["reason"] == attacked.state()
    assert "the attacks of this training run on the model itself" in capsys.readouterr().err


def test_a_run_records_what_it_attacks_and_a_resumed_one_does_not_ask_again(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(ATTACKING["e_at"])
    make_loop(settings, tmp_path, save_seconds=0.0).run(max_steps=2)
    monkeypatch.setattr(Attacked, "_compare", lambda *args: pytest.fail("compared again"))
    make_loop(settings, tmp_path, resuming=True).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["fast_copy"] for line in lines if line["kind"] == "attacked"] == [True]
