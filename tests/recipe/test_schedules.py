from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from robustctl.recipe.schedules import Schedule


def factor(config: dict[str, Any], epoch: float, epochs: int) -> float:
    schedule: Any = TypeAdapter(Schedule).validate_python(config)
    return float(schedule.factor(epoch, epochs))


@pytest.mark.parametrize(
    ("config", "epochs", "expected"),
    [
        ({"name": "constant"}, 10, {0: 1, 9.9: 1}),
        ({"name": "piecewise", "at": [100, 150]}, 200, {0: 1, 99.9: 1, 100: 0.1, 149: 0.1, 150: 0.01, 199: 0.01}),
        ({"name": "multiple-decay", "every": 50}, 500, {0: 1, 49: 1, 50: 0.9, 100: 0.8, 499: 0.1}),
        (
            {"name": "linear", "hold": 100, "until": 150, "final": 0.1},
            200,
            {50: 1, 100: 1, 125: 0.55, 150: 0.1, 190: 0.1},
        ),
        ({"name": "cyclic"}, 30, {0: 0, 7.5: 0.5, 15: 1, 22.5: 0.5, 30: 0}),
        ({"name": "cyclic", "peak": 0.4}, 200, {40: 0.5, 80: 1, 140: 0.5}),
        ({"name": "cyclic", "peak": 0.5, "lower": [6, 12]}, 15, {3.75: 0.5, 7.5: 0.1, 13.5: 0.002}),
        (
            {"name": "lines", "through": [[0, 0], [20, 1], [40, 0.05], [50, 0]]},
            50,
            {0: 0, 10: 0.5, 20: 1, 30: 0.525, 40: 0.05, 45: 0.025, 50: 0},
        ),
        ({"name": "lines", "through": [[1, 0.5], [2, 1]]}, 9, {0: 0.5, 1: 0.5, 1.5: 0.75, 2: 1, 8: 1}),
        ({"name": "cosine"}, 200, {0: 1, 100: 0.5, 200: 0}),
        ({"name": "step-per-third"}, 3, {0: 1, 0.99: 1, 1: 0.1, 2: 0.01, 2.99: 0.01}),
        ({"name": "step-per-third"}, 1, {0: 1, 0.33: 1, 1 / 3: 0.1, 2 / 3: 0.01, 1: 0.01}),
    ],
)
def test_factor_is_the_published_one(config: dict[str, Any], epochs: int, expected: dict[float, float]) -> None:
    for epoch, value in expected.items():
        assert factor(config, epoch, epochs) == pytest.approx(value), f"at epoch {epoch}"


def test_one_cycle_equals_torchs_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=101)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # torch rises over 0.3 * 101 - 1 steps and falls over the rest; ours is the same curve in continuous time.
    ours = [factor({"name": "one-cycle"}, step, 100) for step in range(100)]
    assert max(abs(a - b) for a, b in zip(rates, ours, strict=True)) < 0.03


def test_linear_schedule_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValidationError, match="must come after hold"):
        factor({"name": "linear", "hold": 5, "until": 5}, 0, 10)
