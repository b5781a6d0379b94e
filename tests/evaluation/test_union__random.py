"""A model that gives other logits from pass to pass is judged by the majority of fresh passes."""

import dataclasses

import pytest
import torch
from torch import nn

from robustctl import losses
from robustctl.architectures import Classifier
from robustctl.evaluation import checks, identity, referee, union
from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.oracle import DRAWS, Oracle
from robustctl.threats import Threat

CPU = torch.device("cpu")
REQUEST = UnionRequest((Threat.parse("linf:0.04"),), "fast", seed=0, batch_size=50)


class Noisy(nn.Linear):
    """A linear layer with noise on its logits."""

    noise = 0.01

    def forward(self, x):
        return super().forward(x) + self.noise * torch.randn(len(x), self.out_features)


@pytest.fixture
def noisy(linear):
    model = Classifier(nn.Sequential(nn.Flatten(), Noisy(36, 5)), None)
    model.load_state_dict(linear.state_dict())
    return model.eval()


def evaluate(model, spec, data, path, request=REQUEST):
    return evaluate_union(model, spec, data, request, name="m", device=CPU, store_path=path)


class Coin(nn.Module):
    """Says class 1 in some passes and class 0 in the others; the weight is for its device."""

    def __init__(self, ones):
        super().__init__()
        self.weight, self.passes, self.ones = nn.Parameter(torch.zeros(1)), 0, ones

    def forward(self, x):
        answer = int(self.passes % referee.PASSES < self.ones)
        self.passes += 1
        return torch.eye(2)[answer].repeat(len(x), 1) + 0 * self.weight


@pytest.mark.parametrize(("ones", "broken"), [(0, False), (10, False), (11, True), (21, True)])
def test_a_point_is_broken_only_if_most_of_the_passes_are_wrong(ones, broken):
    x = torch.rand(3, 1, 4, 4)
    verdicts = referee.judge(Coin(ones), x, torch.zeros(3, dtype=torch.long), x, REQUEST.threats[0], referee.PASSES)
    assert verdicts.broken.tolist() == [broken] * 3
    assert verdicts.right.tolist() == pytest.approx([1 - ones / referee.PASSES] * 3)
    assert (verdicts.margin > 0).tolist() == [broken] * 3


def test_there_are_at_least_twenty_passes_and_always_a_majority():
    assert referee.PASSES >= 20
    assert referee.PASSES % 2 == 1


def test_a_random_model_s_result_has_passes_draws_means_and_intervals(
    noisy, linear, linear_spec, linear_data, tmp_path
):
    found = evaluate(noisy, linear_spec, linear_data, tmp_path / "n.sqlite")
    plain = evaluate(linear, linear_spec, linear_data, tmp_path / "p.sqlite")
    assert (found.attack.passes, found.attack.draws) == (referee.PASSES, DRAWS)
    assert (plain.attack.passes, plain.attack.draws, plain.single_pass) == (1, 1, None)
    assert any(flag.startswith("random-forward") for flag in found.flags)
    assert found.single_pass is not None and set(found.single_pass) == {"clean", "linf"}
    for mean in found.single_pass.values():
        assert mean.ci95[0] < mean.mean < mean.ci95[1]
    assert found.single_pass["linf"].mean < found.single_pass["clean"].mean
    # Little noise: a majority sees nearly the noiseless model.
    assert abs(found.norms["linf"].acc - plain.norms["linf"].acc) <= 0.1
    assert abs(found.clean.acc - plain.clean.acc) <= 0.05


def test_dropout_left_on_does_not_make_a_model_look_robust(linear, linear_spec, linear_data, tmp_path):
    class Dropping(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.1, training=True))

    model = Classifier(nn.Sequential(nn.Flatten(), Dropping(36, 5)), None)
    model.load_state_dict(linear.state_dict())
    request = dataclasses.replace(REQUEST, threats=(Threat.parse("linf:0.2"),))
    found = evaluate(model, linear_spec, linear_data, tmp_path / "d.sqlite", request)
    assert found.clean.acc > 0.7
    assert found.norms["linf"].acc == 0


def test_verdicts_of_a_random_model_are_not_those_of_a_model_without_noise(noisy, linear, linear_spec, linear_data):
    request, _ = union.confirmed(noisy, linear_data, REQUEST)
    assert request.random
    assert not union.confirmed(linear, linear_data, REQUEST)[0].random
    key = identity.evaluation_key(noisy, linear_spec, linear_data, request)
    assert key["passes and draws"] == [referee.PASSES, DRAWS]
    assert "passes and draws" not in identity.evaluation_key(linear, linear_spec, linear_data, REQUEST)


def test_gradients_and_losses_are_averaged_over_the_draws(noisy, linear, linear_data):
    x, y = linear_data.x[:8], linear_data.y[:8]
    noisy.net[1].noise = 1.0
    errors = []
    for draws in (1, 400):
        with Oracle(noisy, draws=draws) as oracle, Oracle(linear) as plain, torch.random.fork_rng():
            torch.manual_seed(0)
            errors.append(float((oracle.logits(x) - plain.logits(x)).abs().mean()))
            found = oracle.loss_and_grad(x, y, losses.ce)
            assert (oracle.forwards, oracle.gradients) == (8 * draws, 8 * draws)
    assert errors[1] < errors[0] / 10
    again = []
    for _ in range(2):
        with Oracle(noisy, draws=400) as oracle:
            again.append(oracle.loss_and_grad(x, y, losses.ce)[2])
    assert float((again[0] - found[2]).norm() / found[2].norm()) < 0.1


def test_the_attacks_own_check_is_stricter_than_the_majority():
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)
    for ones, sure in ((11, False), (15, False), (17, True), (21, True)):
        with Oracle(Coin(ones), draws=referee.PASSES) as oracle:
            assert (losses.margin(oracle.exact_for(x, y), y) > 0).tolist() == [sure] * 3


def test_noise_of_any_kind_is_seen(noisy, linear, linear_data):
    assert checks.is_random(noisy, linear_data)
    assert not checks.is_random(linear, linear_data)
