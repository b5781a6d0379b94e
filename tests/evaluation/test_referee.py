import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustctl.errors import RunError
from robustctl.evaluation import referee
from robustctl.geometry import shrink_inside
from robustctl.threats import Threat


def moved(x, distance):
    """Each image moved along its first pixel, which is the same distance in every norm."""
    delta = torch.zeros_like(x).flatten(1)
    delta[:, 0] = distance
    return x + delta.view_as(x)


@pytest.fixture
def grey(linear):
    x = torch.full((3, 1, 6, 6), 0.25)
    with torch.no_grad():
        wrong = (linear(x).argmax(1) + 1) % 5
    return x, wrong


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_misclassified_point_on_the_sphere_counts_and_one_beyond_it_does_not(linear, grey, norm):
    x, y = grey
    threat = Threat.of(norm, "0.25")
    assert referee.judge(linear, x, y, moved(x, 0.25), threat).broken.all()
    outside = referee.judge(linear, x, y, moved(x, 0.2501), threat)
    assert not outside.inside.any()
    assert not outside.broken.any()


def test_the_norm_is_taken_in_float64():
    # In float32 the sum of 3072 equal terms would be off by more than the tolerance.
    x = torch.full((1, 3, 32, 32), 0.5)
    exact = 3072 * (float(torch.tensor(0.501)) - 0.5)
    x_adv = torch.full_like(x, 0.501)
    assert referee.in_ball(x_adv, x, Threat("l1", exact, "")).all()
    assert not referee.in_ball(x_adv, x, Threat("l1", exact * (1 - 3e-6), "")).any()


@pytest.mark.parametrize("pixel", [-1e-7, 1 + 2e-7])
def test_the_box_has_no_tolerance(linear, pixel):
    x = torch.full((1, 1, 6, 6), float(round(pixel)))
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = pixel
    y = (linear(x).argmax(1) + 1) % 5
    assert not referee.judge(linear, x, y, x_adv, Threat.of("linf", "0.5")).broken.any()


def test_a_rightly_classified_point_is_not_broken(linear, grey):
    x, _ = grey
    y = linear(x).argmax(1)
    verdicts = referee.judge(linear, x, y, x, Threat.of("l2", "1"))
    assert verdicts.inside.all()
    assert not verdicts.broken.any()
    assert (verdicts.margin < 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stops_the_evaluation(linear, grey, value):
    x, y = grey
    x_adv = x.clone()
    x_adv[1, 0, 0, 0] = value
    with pytest.raises(RunError, match="number 1"):
        referee.judge(linear, x, y, x_adv, Threat.of("linf", "0.5"))


def test_modes_come_back(linear):
    linear.train()
    linear.net[1].eval()
    referee.logits(linear, torch.rand(2, 1, 6, 6))
    assert linear.training
    assert linear.net.training
    assert not linear.net[1].training


def test_predictions_take_a_batch_at_a_time(linear, linear_data, monkeypatch):
    sizes = []
    plain = referee.logits
    monkeypatch.setattr(referee, "logits", lambda model, x: sizes.append(len(x)) or plain(model, x))
    found = referee.predictions(linear, linear_data, 15)
    assert sizes == [15, 15, 10]
    assert torch.equal(found, plain(linear, linear_data.x).argmax(1))


def test_the_referee_survives_running_out_of_memory(linear, linear_data):
    class Tight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear

        def forward(self, x):
            if len(x) > 7:
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(x)

    torch.testing.assert_close(referee.logits(Tight(), linear_data.x), referee.logits(linear, linear_data.x))


class Blank(nn.Module):
    """Finite logits for every image, pixels that are not numbers included."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        return self.linear(x.nan_to_num(0.0, 0.0, 0.0).flatten(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_is_never_robust_though_its_logits_are_finite(value):
    model, x = Blank(), torch.rand(3, 1, 4, 4)
    y = model(x).argmax(1)
    x_adv = x.clone()
    x_adv[1, 0, 2, 2] = value
    assert model(x_adv).isfinite().all()
    with pytest.raises(RunError, match=r"proposes an image not finite \(number 1 of its batch\)"):
        referee.judge(model, x, y, x_adv, Threat.parse("linf:0.1"))


def _brighter_than(threshold: float) -> nn.Module:
    """Class 1 where the mean of the image is above ``threshold``."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * 4, [0.25] * 4]))
        model[1].bias.copy_(torch.tensor([threshold, 0.0]))
    return model


@pytest.mark.parametrize(("norm", "eps"), [("linf", 10.7 / 255), ("l2", 21.4 / 255), ("l1", 42.8 / 255)])
def test_eight_bit_images_are_rounded_towards_x_and_so_stay_inside(norm, eps):
    x = torch.full((1, 1, 2, 2), 100 / 255)
    x_adv = x + 10.7 / 255  # the nearest step, 11, is outside of the ball; 10 is inside
    y, threat = torch.tensor([0]), Threat(norm, eps, "")
    assert bool(referee.judge_8bit(_brighter_than(109.5 / 255), x, y, x_adv, threat).broken)
    assert not bool(referee.judge_8bit(_brighter_than(110.5 / 255), x, y, x_adv, threat).broken)


def test_a_whole_step_less_a_float_is_still_that_step():
    x = torch.full((1, 1, 2, 2), 100 / 255)
    x_adv = torch.nextafter(x + 8 / 255, x)
    threat = Threat("linf", 8 / 255, "8/255")
    assert bool(referee.judge_8bit(_brighter_than(107.5 / 255), x, torch.tensor([0]), x_adv, threat).broken)


def test_an_eight_bit_image_outside_the_ball_breaks_nothing():
    x = torch.full((1, 1, 2, 2), 100.4 / 255)  # no 8-bit image lies within a tenth of a step
    x_adv = x + 0.1 / 255
    threat = Threat("linf", 0.1 / 255, "")
    assert not bool(referee.judge_8bit(_brighter_than(0.0), x, torch.tensor([0]), x_adv, threat).broken)


@given(st.integers(0, 2**31), st.booleans())
def test_an_eight_bit_image_lies_between_the_image_and_its_attack(seed, eight_bit):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 4, 4, generator=generator)
    x = x.mul(255).round_().div_(255) if eight_bit else x
    x_adv = (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    rounded, aim, here = referee.to_8bit(x_adv, x), x_adv.double() * 255, x.double() * 255
    assert torch.equal(rounded, rounded.round()) and rounded.min() >= 0 and rounded.max() <= 255
    between = ((rounded - here).abs() <= (aim - here).abs() + 1e-3) & ((rounded - here) * (aim - here) >= -1e-3)
    assert (between | (rounded == here.round())).all()
    assert not eight_bit or (between & ((rounded - aim).abs() < 1 + 1e-3)).all()


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_no_pixel_at_the_edge_of_the_ball_loses_a_step(steps):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (4, 3, 16, 16), generator=generator)
    signs = torch.randn(levels.shape, generator=generator).sign().long()
    x = levels.float() / 255
    x_adv = shrink_inside(x + signs * (steps / 255), x, "linf", steps / 255)
    assert torch.equal(referee.to_8bit(x_adv, x).long(), (levels + steps * signs).clamp(0, 255))
