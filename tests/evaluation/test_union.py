import copy
import dataclasses

import pytest
import torch
from torch import nn

from robustctl import results
from robustctl.errors import RequestError, RunError
from robustctl.evaluation import reference, union, verify
from robustctl.evaluation.checks import Recorded
from robustctl.evaluation.store import Store, decode
from robustctl.evaluation.union import Request, evaluate_union
from robustctl.threats import Threat

CPU = torch.device("cpu")
THREATS = tuple(map(Threat.parse, ("linf:0.04", "l2:0.1", "l1:0.3")))
STANDARD = Request(THREATS, "standard", seed=0, batch_size=50)


def evaluate(model, spec, data, request, path, **more):
    return evaluate_union(model, spec, data, request, name="m", device=CPU, store_path=path, **more)


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
    key = union.evaluation_key(linear, linear_spec, linear_data, STANDARD)
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
            assert verify.judge(linear, x, linear_data.y[broken], x_adv, threat).broken.all()


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

    monkeypatch.setattr(union, "run_family", refuse)
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

    def cheat(oracle, data, positions, threat, family, *, seed, batch_size):
        others = [int((data.y != data.y[position]).nonzero()[0]) for position in positions]
        yield union.Finished(list(positions), data.images(others))

    monkeypatch.setattr(union, "run_family", cheat)
    result = evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "c.sqlite")
    assert all(accuracy.acc == result.clean.acc for accuracy in result.norms.values())
    assert sum(flag.startswith("outside") for flag in result.flags) == 3


def test_an_attack_that_returns_nan_stops_and_stores_nothing(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def broken(oracle, data, positions, threat, family, *, seed, batch_size):
        yield union.Finished(list(positions), torch.full((len(positions), 1, 6, 6), torch.nan))

    monkeypatch.setattr(union, "run_family", broken)
    with pytest.raises(RunError, match="not finite"):
        evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "n.sqlite")
    with Store(tmp_path / "n.sqlite", union.evaluation_key(linear, linear_spec, linear_data, STANDARD)) as store:
        assert store.judged("linf", "apgd-ce") == set()


def test_nothing_is_attacked_when_a_guard_refuses(linear, linear_spec, linear_data, tmp_path):
    with pytest.raises(RequestError, match="clean accuracy is 90.0 %"):
        evaluate(
            linear,
            linear_spec,
            linear_data,
            STANDARD,
            tmp_path / "g.sqlite",
            recorded=Recorded(0.2, 10_000, "made", "test"),
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


def test_the_reference_attack_goes_through_the_same_store(linear, linear_spec, linear_data, tmp_path):
    request = Request(THREATS[2:], "autoattack", seed=0, batch_size=8)
    state = torch.random.get_rng_state()
    data = linear_data.select(range(12))
    whole = evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite")
    assert torch.equal(state, torch.random.get_rng_state())
    assert whole.attack.protocol.startswith("l1: pyautoattack")
    assert whole.norms["l1"].acc < whole.clean.acc
    # A store that stopped after the first attack ends with the same verdicts.
    key = union.evaluation_key(linear, linear_spec, data, request)
    with Store(tmp_path / "a.sqlite", key) as store:
        store._connection.execute("DELETE FROM verdicts WHERE family != 'apgd-ce'")
    assert evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite").points == whole.points


def test_the_reference_refuses_three_classes_in_words(linear_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(RequestError, match="at least 4 classes"):
        list(reference.run(model, linear_data, [0], set(), THREATS[0], "apgd-ce", seed=0, batch_size=1))
