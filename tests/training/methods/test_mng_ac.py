"""MNG-AC: noise that is learned by looking one step ahead, and three predictions that agree."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robustctl import geometry
from robustctl.processes import World
from robustctl.threats import NORMS, Norm, Threat
from robustctl.training.methods.mng_ac import DECAY, Config, Method, divergence, drawn, fit, noise

THREATS = (Threat.of("linf", "0.1"), Threat.of("l2", "0.5"), Threat.of("l1", "1.5"))
EPS = {threat.norm: threat.eps for threat in THREATS}


def method(**changes: Any) -> Method:
    return Method(Config.model_validate({"name": "mng-ac", "rate": 0.2, **changes}), THREATS)


def _delta(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 1, 6, 6, generator=g, dtype=torch.float64)
    return x, scale * torch.randn(x.shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.001, 1.0])
def test_noise_is_inside_ball_and_box(norm: Norm, scale: float) -> None:
    x, delta = _delta(0, scale)
    noisy = fit(x, delta, Threat(norm, EPS[norm], str(EPS[norm])))
    assert (geometry.norm(noisy - x, norm) <= EPS[norm] * (1 + 1e-9)).all()
    assert ((noisy >= 0) & (noisy <= 1)).all()


def test_in_l1_it_is_the_projection_onto_the_ball_and_its_derivative() -> None:
    _, delta = _delta(1, 1.0)
    middle = torch.full_like(delta, 0.5)  # the box cuts nothing off
    threat = Threat("l1", 0.3, "0.3")
    assert torch.allclose(fit(middle, delta, threat), geometry.project(middle + delta, middle, "l1", 0.3), atol=1e-9)
    assert torch.autograd.gradcheck(lambda d: fit(middle[:1], d, threat), (delta[:1].requires_grad_(),))


def test_in_l2_it_reaches_the_radius_and_in_linf_it_clips() -> None:
    _, delta = _delta(2, 0.01)
    x = torch.full_like(delta, 0.5)
    assert torch.allclose(geometry.norm(fit(x, delta, THREATS[1]) - x, "l2"), torch.full((5,), 0.5).double())
    assert torch.equal(fit(x, 100 * delta, THREATS[0]), (x + (100 * delta).clamp(-0.1, 0.1)).clamp(0, 1))


def test_the_divergence_is_zero_for_equal_predictions_and_log_3_for_certain_different_ones(example: Any) -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    assert divergence([logits, logits, logits]).abs().max() < 1e-6
    certain = [200.0 * torch.eye(3, dtype=torch.float64)[[k]] for k in range(3)]
    assert float(divergence(certain)) == pytest.approx(float(torch.tensor(3.0).log()), abs=1e-5)


def test_the_loss_is_that_of_the_adversarial_points_and_the_weighted_divergence(example: Any) -> None:
    target = method(weight=0.7)
    step = example.step()
    loss = target.loss(step)
    x_adv, noisy = step.points
    logits = [example.model(one) for one in (step.x, x_adv, noisy)]
    plain = torch.nn.functional.cross_entropy(logits[1], step.y)
    example.assert_same(loss, plain + 0.7 * divergence(logits).mean())


def test_the_generator_goes_down_the_loss_after_one_step_on_the_noisy_images(example: Any) -> None:
    """Against the loss written out with finite differences in float64."""
    target, step = method(weight=0.0), example.step()
    target._begin(step)
    before = [one.clone() for one in target.weights]
    target.loss(step)
    threat = next(one for one in THREATS if (geometry.norm(step.points[1] - step.x, one.norm) <= one.eps + 1e-9).all())
    fresh = example.step()
    fresh.choose([1 / 3] * 3)
    z = drawn(fresh)
    parameters = dict(example.model.named_parameters())

    def ahead(weights: list[Tensor]) -> float:
        noisy = fit(step.x, noise(weights, z), threat)
        inner = torch.nn.functional.cross_entropy(example.model(noisy), step.y)
        slopes = torch.autograd.grad(inner, list(parameters.values()))
        moved = {name: one - 0.2 * slope for (name, one), slope in zip(parameters.items(), slopes, strict=True)}
        out = torch.func.functional_call(example.model, moved, (step.points[0],))
        return float(torch.nn.functional.cross_entropy(out, step.y).detach())

    place, h = (3, 2, 1, 1), 1e-5  # one weight of the 3x3 layer
    values = []
    for sign in (1, -1):
        changed = [one.clone() for one in before]
        changed[2][place] += sign * h
        values.append(ahead(changed))
    slope = (values[0] - values[1]) / (2 * h) + DECAY * float(before[2][place])
    assert float(target.weights[2][place] - before[2][place]) == pytest.approx(-0.2 * slope, rel=1e-4, abs=1e-9)


def test_the_generator_learns_from_the_model_in_eval_mode_and_leaves_its_modes_alone(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    example.model.train()
    example.model[0].eval()  # a part that is in eval mode on purpose
    seen, plain = [], Method._slopes

    def slopes(self: Method, step: Any, *more: Any) -> Any:
        seen.append(any(part.training for part in step.model.modules()))
        return plain(self, step, *more)

    monkeypatch.setattr(Method, "_slopes", slopes)
    method().loss(example.step())
    assert seen == [False]
    assert example.model.training and not example.model[0].training


def test_a_replay_learns_nothing_and_finds_the_same_loss(example: Any) -> None:
    target, step = method(), example.step()
    loss = target.loss(step)
    weights = [one.clone() for one in target.weights]
    again = target.loss(step.replay())
    example.assert_same(again, loss)
    assert all(torch.equal(one, other) for one, other in zip(weights, target.weights, strict=True))


def test_a_step_that_is_done_again_from_what_was_remembered_learns_once(example: Any) -> None:
    target, other = method(), method()
    for one in (target, other):
        one.loss(example.step())
    remembered = target.remembered()
    target.loss(example.step(number=1))
    target.recall(remembered)
    for one in (target, other):
        one.loss(example.step(number=1))
    for found, expected in ((target.weights, other.weights), (target.velocity, other.velocity)):
        assert all(map(torch.equal, found, expected))


def test_it_goes_on_from_its_state_as_if_nothing_had_happened(example: Any) -> None:
    target, other = method(), method()
    target.loss(example.step())
    other.load_state(target.gathered_state(World()), World())
    example.assert_same(target.loss(example.step(number=1)), other.loss(example.step(number=1)))
    assert all(torch.equal(one, two) for one, two in zip(target.weights, other.weights, strict=True))
