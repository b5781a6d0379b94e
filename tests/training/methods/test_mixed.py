"""Mixed batches: each image meets one norm, within its own ball."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from robustctl import geometry
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods.mixed import Config, Method, steepest

THREATS = (Threat.of("linf", "0.1"), Threat.of("l1", "1.5"))


def method(choice: str = "error") -> Method:
    return Method(Config(name="mixed", choice=choice), THREATS)


def test_each_image_is_attacked_in_the_norm_that_was_drawn_for_it(example: Any) -> None:
    step = example.step()
    target = method()
    target.loss(step)
    chosen = method()._chosen(example.step())
    assert set(chosen.tolist()) == {0, 1}, "this seed draws both norms"
    for i, threat in enumerate(THREATS):
        moved = step.points[i] - step.x
        assert torch.equal(moved[chosen != i], torch.zeros_like(moved[chosen != i]))
        lengths = geometry.norm(moved[chosen == i], threat.norm)
        assert (lengths > 0.1 * threat.eps).all() and (lengths <= threat.eps).all()


def test_the_loss_is_the_mean_over_images_at_their_own_points(example: Any) -> None:
    step = example.step()
    target = method()
    loss = target.loss(step)
    chosen = method()._chosen(example.step())
    x_adv = step.points[0].where((chosen == 0).view(-1, 1, 1, 1), step.points[1])
    restated = -example.model(x_adv).log_softmax(1)[torch.arange(len(step.x)), step.labels].mean()
    example.assert_same(loss, restated)


def test_norms_are_drawn_by_their_running_errors(example: Any) -> None:
    target = method()
    target.errors = [0.0, 1.0]
    assert target._chosen(example.step()).tolist() == [1] * 6
    target.errors = [1.0, 0.0]
    assert target._chosen(example.step()).tolist() == [0] * 6


def test_draws_depend_on_the_step_alone(example: Any) -> None:
    target = method("uniform")
    draws = [target._chosen(example.step(number=number)).tolist() for number in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_running_errors_move_by_a_tenth_of_the_way_and_are_kept_in_the_state(example: Any) -> None:
    target, other = method("uniform"), method("uniform")
    step = example.step()
    target.loss(step)
    chosen = target._chosen(example.step())
    x_adv = step.points[0].where((chosen == 0).view(-1, 1, 1, 1), step.points[1])
    wrong = example.model(x_adv).argmax(1) != step.labels
    for i in range(2):
        assert target.errors[i] == pytest.approx(0.9 * 0.5 + 0.1 * float(wrong[chosen == i].double().mean()))
    other.load_state(target.gathered_state(World()), World())
    assert other.errors == target.errors


def test_margin_takes_the_norm_that_moves_a_linear_network_most(example: Any) -> None:
    weights = torch.zeros(2, 25, dtype=torch.float64)
    weights[0, :5] = 1.0  # l_inf 0.1 moves the gap by 0.5 here, l_1 1.5 by 1.5
    example.model = nn.Sequential(nn.Flatten(), nn.Linear(25, 2, bias=False)).double()
    example.model[1].weight.data = weights
    example.y = torch.zeros(6, dtype=torch.long)
    assert steepest(example.step(), THREATS).tolist() == [1] * 6
    weights[0, :] = 1.0  # now 2.5 against 1.5
    example.model[1].weight.data = weights
    assert steepest(example.step(), THREATS).tolist() == [0] * 6


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 5.0])
def test_a_momentum_that_forgets_nothing_or_more_is_refused(momentum: float) -> None:
    with pytest.raises(ValidationError):
        Config(name="mixed", momentum=momentum)


def test_the_metrics_have_the_share_of_images_that_met_each_norm(example: Any) -> None:
    step = example.step()
    method().loss(step)
    chosen = method()._chosen(example.step())
    for i, threat in enumerate(THREATS):
        assert example.meter.means()[f"share/{threat.norm}"] == pytest.approx(float((chosen == i).float().mean()))
