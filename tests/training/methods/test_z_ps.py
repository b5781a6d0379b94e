import torch

from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods import z_mc
from robustctl.training.methods.z_ps import MOST_ADJUSTMENTS, Config, Method

LINF = (Threat.of("linf", "0.1"),)


def method(q: float = 100, samples: int = 8) -> Method:
    return Method(Config(name="z-ps", samples=samples, q=q, leapfrog=3), LINF)


def test_loss_is_the_geometric_mean_over_annealed_points(example) -> None:
    target = method()
    loss = target.loss(example.step())
    points, _ = target._sample(example.step())  # the same seeds, and the step size is tuned now
    values = torch.nn.functional.cross_entropy(example.model(points), example.y.repeat_interleave(8), reduction="none")
    example.assert_same(loss, values.reshape(-1, 8).log().mean(1).exp().mean())


def test_points_stay_in_the_ball_and_the_box(example) -> None:
    points, _ = method()._sample(example.step())
    assert (points - example.x.repeat_interleave(8, 0)).abs().max() <= 0.1 + 1e-12
    assert points.min() >= 0
    assert points.max() <= 1


def test_path_sampling_sees_higher_losses_than_monte_carlo_at_large_q(example) -> None:
    path = method(q=1000, samples=20).loss(example.step())
    random = z_mc.Method(z_mc.Config(name="z-mc", samples=20, q=1000), LINF).loss(example.step())
    assert path > random


def test_step_is_tuned_once_an_epoch_and_travels_with_the_state(example) -> None:
    target = method(q=100_000)
    target.loss(example.step())
    tuned = target.step_share
    assert tuned < 1
    assert tuned >= 1.2**-MOST_ADJUSTMENTS
    target.loss(example.step())
    assert target.step_share == tuned
    other = method(q=100_000)
    other.load_state(target.state(), World())
    assert other.step_share == tuned
    assert other.tuned
    other.start_epoch()
    assert not other.tuned


def test_sampling_leaves_parameters_without_gradients_from_it(example) -> None:
    method()._sample(example.step())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in example.model.parameters())
