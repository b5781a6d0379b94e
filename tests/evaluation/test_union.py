import copy
import dataclasses

import pytest
import torch
from torch import nn
from union_case import STANDARD, THREATS, evaluate

from robustctl.architectures import Classifier
from robustctl.errors import RequestError, RunError
from robustctl.evaluation import identity, jobs, referee
from robustctl.evaluation.checks import KnownAccuracy
from robustctl.evaluation.row_scheduler import Finished
from robustctl.evaluation.store import Store, decode
from robustctl.results import union as results


@pytest.fixture
def result(linear, linear_spec, linear_data, tmp_path):
    return evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")


def exact_robust(model, x, y, threat):
    """Whether no point of the ball (the box left aside) changes a linear classifier's answer."""
    weight, scores = model.net[1].weight.double(), model.net[1](x.double().float().flatten(1)).double()
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[threat.norm]
    robust = torch.ones(len(y), dtype=torch.bool)
    for k in range(weight.shape[0]):
        gap = scores.gather(1, y[:, None])[:, 0] - scores[:, k]
        reach = threat.eps * torch.linalg.vector_norm(weight[k] - weight[y], dual, dim=1)
        robust &= (gap > reach) | (y == k)
    return robust


def test_of_a_linear_classifier_the_robust_points_are_those_of_the_closed_form(result, linear, linear_data):
    inner = ((linear_data.x > 0.1) & (linear_data.x < 0.9)).flatten(1).all(1)
    for threat in THREATS:
        exact = exact_robust(linear, linear_data.x, linear_data.y, threat) & torch.tensor(result.points.clean) > 0
        found = torch.tensor(result.points.robust[threat.norm]) > 0
        assert (found | ~exact).all()  # nothing that is certainly robust is called broken
        assert (found == exact)[inner].all()
    assert 0 < result.union.n_correct < result.clean.n_correct


def test_the_union_is_below_every_norm_and_every_norm_below_clean(result):
    assert result.clean.acc == 0.9
    for accuracy in result.norms.values():
        assert result.union.acc <= accuracy.acc <= result.clean.acc


def test_stored_images_prove_every_broken_point(result, linear, linear_spec, linear_data, tmp_path):
    key = identity.evaluation_key(linear, linear_spec, linear_data, STANDARD)
    with Store(tmp_path / "s.sqlite", key) as store:
        for threat in THREATS:
            proofs = dict(store.adversarial(threat.norm))
            broken = [
                i
                for i, (c, r) in enumerate(zip(result.points.clean, result.points.robust[threat.norm], strict=True))
                if c > r
            ]
            assert sorted(proofs) == broken
            x = linear_data.images(broken)
            x_adv = torch.stack([decode(proofs[i], image) for i, image in zip(broken, x, strict=True)])
            assert referee.judge(linear, x, linear_data.y[broken], x_adv, threat).broken.all()


def test_verdicts_of_a_linear_classifier_do_not_depend_on_the_batch(linear, linear_spec, linear_data, tmp_path):
    data = linear_data.select(range(9))
    requests = [dataclasses.replace(STANDARD, batch_size=batch_size) for batch_size in (1, 7, 9)]
    found = [
        evaluate(linear, linear_spec, data, request, tmp_path / f"{request.batch_size}.sqlite") for request in requests
    ]
    assert found[0].points == found[1].points == found[2].points


def test_the_second_time_nothing_is_attacked(result, linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("attacked again")
        yield

    monkeypatch.setattr(jobs, "run_family", refuse)
    again = evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
    assert again.points == result.points


def test_union_only_finds_the_same_union_with_less_work(result, linear, linear_spec, linear_data, tmp_path):
    request = dataclasses.replace(STANDARD, union_only=True)
    only = evaluate(linear, linear_spec, linear_data, request, tmp_path / "u.sqlite")
    assert only.points.union() == result.points.union()
    assert all(accuracy.upper_bound for accuracy in only.norms.values())
    assert any(flag.startswith("union-only") for flag in only.flags)
    assert all(only.norms[norm].acc >= accuracy.acc for norm, accuracy in result.norms.items())


def test_another_model_does_not_get_the_verdicts_of_the_first(result, linear, linear_spec, linear_data, tmp_path):
    other = copy.deepcopy(linear)
    with torch.no_grad():
        other.net[1].bias[0] += 1e-3
    with pytest.raises(RunError, match="weights"):
        evaluate(other, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")


def test_a_cheating_attack_breaks_nothing(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    """An attack that hands out the image of another class is inside the box, but far outside the ball."""

    def cheat(run, positions):
        y = run.data.y
        yield Finished(list(positions), run.data.images([int((y != y[one]).nonzero()[0]) for one in positions]))

    monkeypatch.setattr(jobs, "run_family", cheat)
    result = evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "c.sqlite")
    assert all(accuracy.acc == result.clean.acc for accuracy in result.norms.values())
    assert sum(flag.startswith("outside") for flag in result.flags) == 3


def test_an_attack_that_returns_nan_stops_and_stores_nothing(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def broken(run, positions):
        yield Finished(list(positions), torch.full((len(positions), 1, 6, 6), torch.nan))

    monkeypatch.setattr(jobs, "run_family", broken)
    with pytest.raises(RunError, match="not finite"):
        evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "n.sqlite")
    with Store(tmp_path / "n.sqlite", identity.evaluation_key(linear, linear_spec, linear_data, STANDARD)) as store:
        assert store.judged("linf", "apgd-ce") == set()


def test_nothing_is_attacked_when_a_guard_refuses(linear, linear_spec, linear_data, tmp_path):
    with pytest.raises(RequestError, match="clean accuracy is 90.0 %"):
        evaluate(
            linear,
            linear_spec,
            linear_data,
            STANDARD,
            tmp_path / "g.sqlite",
            recorded=KnownAccuracy(0.2, 10_000, "made", "test"),
        )


def test_parameters_modes_and_random_state_are_left_alone(linear, linear_spec, linear_data, tmp_path):
    before = copy.deepcopy(linear.state_dict())
    state = torch.random.get_rng_state()
    evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
    assert all(torch.equal(tensor, before[name]) for name, tensor in linear.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in linear.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("n_wrong", [0, 40])
def test_none_or_all_points_right_at_the_start(linear, linear_spec, linear_data, tmp_path, n_wrong):
    with torch.no_grad():
        y = linear(linear_data.x).argmax(1)
    y[:n_wrong] = (y[:n_wrong] + 1) % 5
    data = dataclasses.replace(linear_data, y=y)
    result = evaluate(linear, linear_spec, data, STANDARD, tmp_path / "s.sqlite")
    assert result.clean.n_correct == 40 - n_wrong
    assert result.union.n_correct <= result.clean.n_correct


def test_eight_bit_accuracy_lies_between_robust_and_clean(result):
    for accuracy in result.norms.values():
        assert accuracy.acc <= accuracy.acc_8bit <= result.clean.acc


def test_the_result_survives_its_file(result, tmp_path):
    result.write(tmp_path / "r.json")
    assert results.read(tmp_path / "r.json") == result


@pytest.mark.parametrize("n_classes", [2, 3])
def test_two_and_three_classes_are_evaluated_with_a_margin_and_flagged(linear_spec, linear_data, tmp_path, n_classes):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, n_classes)), None).eval()
    with torch.no_grad():
        data = dataclasses.replace(linear_data, y=model(linear_data.x).argmax(1), n_classes=n_classes)
    spec = linear_spec.model_copy(update={"n_classes": n_classes})
    found = evaluate(model, spec, data, STANDARD, tmp_path / "s.sqlite")
    assert found.clean.acc == 1
    assert 0 < found.union.acc < 1
    assert any(flag.startswith(f"margin: {n_classes} classes") for flag in found.flags)


class Tight(nn.Linear):
    """Has room for so many images at once."""

    room = 40

    def forward(self, x):
        if len(x) > Tight.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def test_an_evaluation_with_little_memory_ends_with_the_same_verdicts(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    model = Classifier(nn.Sequential(nn.Flatten(), Tight(36, 5)), None)
    model.load_state_dict(linear.state_dict())
    request = dataclasses.replace(STANDARD, protocol="fast")
    expected = evaluate(model, linear_spec, linear_data, request, tmp_path / "a.sqlite")
    monkeypatch.setattr(Tight, "room", 3)
    found = evaluate(model, linear_spec, linear_data, request, tmp_path / "b.sqlite")
    assert (found.points, found.flags) == (expected.points, expected.flags)


def test_a_clean_accuracy_that_is_off_on_other_images_is_in_the_result(linear, linear_spec, linear_data, tmp_path):
    recorded = KnownAccuracy(0.75, 10_000, "others", "test")
    path = tmp_path / "s.sqlite"
    few = dataclasses.replace(linear_data, x=linear_data.x.repeat(8, 1, 1, 1), y=linear_data.y.repeat(8))
    few = dataclasses.replace(few, indices=torch.arange(len(few.y)))
    request = dataclasses.replace(STANDARD, protocol="fast")
    found = evaluate(linear, linear_spec, few, request, path, recorded=recorded)
    assert [flag for flag in found.flags if flag.startswith("clean-accuracy: clean accuracy is 90.0 % on the 320")]
