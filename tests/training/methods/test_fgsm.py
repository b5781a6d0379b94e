"""One sign step against a restatement image by image, for each start."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl import geometry
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods.fgsm import Config, Method

LINF = Threat.of("linf", "0.1")
EPS = 0.1


def method(start: str, step: float) -> Method:
    return Method(Config(name="fgsm", start=start, step=step), (LINF,))


def sign_step(example: Any, delta: Tensor, i: int, size: float) -> Tensor:
    """The perturbation of image ``i`` after one step of ``size`` from ``delta``, cut to the ball."""
    point = (example.x[i] + delta).clamp(0, 1).requires_grad_(True)
    loss = F.cross_entropy(example.model(point[None]), example.y[i : i + 1])
    (grad,) = torch.autograd.grad(loss, point)
    moved = point.detach() - example.x[i] + size * (1.0 * (grad > 0) - 1.0 * (grad < 0))
    return torch.where(moved > EPS, EPS, torch.where(moved < -EPS, -EPS, moved))


def restated(example: Any, deltas: list[Tensor]) -> Tensor:
    points = [(example.x[i] + delta).clamp(0, 1) for i, delta in enumerate(deltas)]
    losses = [F.cross_entropy(example.model(point[None]), example.y[i : i + 1]) for i, point in enumerate(points)]
    return sum(losses) / len(losses)


def starts(example: Any, start: str) -> list[Tensor]:
    noise = list(geometry.draw(example.x, example.step().generators, uniform=True))
    if start == "corner":
        return [torch.where(one > 0, EPS / 2, -EPS / 2) for one in noise]
    return [torch.zeros_like(one) if start == "zero" else EPS * one for one in noise]


@pytest.mark.parametrize(("start", "step"), [("zero", 1.0), ("uniform", 1.25), ("corner", 0.5), ("previous", 1.0)])
def test_loss_is_the_cross_entropy_after_one_sign_step(example: Any, start: str, step: float) -> None:
    loss = method(start, step).loss(example.step())
    deltas = [sign_step(example, delta, i, step * EPS) for i, delta in enumerate(starts(example, start))]
    example.assert_same(loss, restated(example, deltas))


def test_full_step_is_cut_to_the_ball(example: Any) -> None:
    target = method("uniform", 1.25)
    target.loss(example.step())
    assert target.delta is not None and target.delta.abs().max() == EPS


def test_previous_start_is_where_the_batch_before_ended(example: Any) -> None:
    target = method("previous", 0.5)
    target.loss(example.step())
    deltas = [sign_step(example, delta, i, 0.5 * EPS) for i, delta in enumerate(starts(example, "previous"))]
    deltas = [sign_step(example, delta, i, 0.5 * EPS) for i, delta in enumerate(deltas)]
    example.assert_same(target.loss(example.step()), restated(example, deltas))


def test_step_begins_inside_the_box(example: Any) -> None:
    example.x = example.x.round()
    target = method("uniform", 1.25)
    target.loss(example.step())
    inside = [(one + delta).clamp(0, 1) - one for one, delta in zip(example.x, starts(example, "uniform"), strict=True)]
    deltas = [sign_step(example, delta, i, 1.25 * EPS) for i, delta in enumerate(inside)]
    torch.testing.assert_close(target.delta, torch.stack(deltas))


def test_a_training_that_goes_on_starts_where_the_batch_before_ended(example: Any) -> None:
    whole, stopped, continued = (method("previous", 0.5) for _ in range(3))
    for target in (whole, stopped):
        target.loss(example.step())
    continued.load_state(stopped.state(), World())
    assert torch.equal(continued.loss(example.step()), whole.loss(example.step()))
    assert method("uniform", 1.0).state() == {"delta": None}, "nothing to keep"
