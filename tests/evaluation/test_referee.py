import pytest
import torch
from torch import nn

from robustctl.errors import RunError
from robustctl.evaluation import referee
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
