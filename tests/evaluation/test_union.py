import copy
import dataclasses

import pytest
import torch
from torch import nn

from robustctl import oracle, trusted_copy
from robustctl.architectures import Classifier
from robustctl.errors import RequestError, RunError
from robustctl.evaluation import identity, jobs, referee, reference, second_opinion, union
from robustctl.evaluation.checks import KnownAccuracy
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.row_scheduler import Finished
from robustctl.evaluation.store import Store, decode
from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.results import union as results
from robustctl.threats import Threat

CPU = torch.device("cpu")
THREATS = tuple(map(Threat.parse, ("linf:0.04", "l2:0.1", "l1:0.3")))
STANDARD = UnionRequest(THREATS, "standard", seed=0, batch_size=50)


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

    def cheat(oracle, data, positions, threat, family, *, seed, batch_size):
        others = [int((data.y != data.y[position]).nonzero()[0]) for position in positions]
        yield Finished(list(positions), data.images(others))

    monkeypatch.setattr(jobs, "run_family", cheat)
    result = evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "c.sqlite")
    assert all(accuracy.acc == result.clean.acc for accuracy in result.norms.values())
    assert sum(flag.startswith("outside") for flag in result.flags) == 3


def test_an_attack_that_returns_nan_stops_and_stores_nothing(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def broken(oracle, data, positions, threat, family, *, seed, batch_size):
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


def test_the_reference_attack_goes_through_the_same_store(linear, linear_spec, linear_data, tmp_path):
    request = UnionRequest(THREATS[2:], "autoattack", seed=0, batch_size=8)
    state = torch.random.get_rng_state()
    data = linear_data.select(range(12))
    whole = evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite")
    assert torch.equal(state, torch.random.get_rng_state())
    assert whole.attack.protocol.startswith("l1: pyautoattack")
    assert whole.norms["l1"].acc < whole.clean.acc
    # A store that stopped after the first attack ends with the same verdicts.
    key = identity.evaluation_key(linear, linear_spec, data, request)
    with Store(tmp_path / "a.sqlite", key) as store:
        store._connection.execute("DELETE FROM verdicts WHERE family != 'apgd-ce'")
    assert evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite").points == whole.points


def test_the_reference_refuses_three_classes_in_words(linear_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(RequestError, match="at least 4 classes"):
        list(reference.run(model, linear_data, [0], set(), THREATS[0], "apgd-ce", seed=0, batch_size=1))


def test_the_reference_out_of_memory_names_a_smaller_batch(linear, linear_data, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(reference.AutoAttack, "run_standard_evaluation", full)
    with pytest.raises(RunError, match="--batch-size 4"):
        list(reference.run(linear, linear_data, range(9), set(), THREATS[0], "apgd-ce", seed=0, batch_size=9))


@pytest.fixture
def no_second_opinion(monkeypatch):
    monkeypatch.setattr(second_opinion, "FAMILIES", ())


@pytest.fixture
def gradients(no_second_opinion, monkeypatch) -> list[int]:
    """Images of each gradient evaluation from here on."""
    sizes: list[int] = []

    class Counting(oracle.Oracle):
        def loss_and_grad(self, x, y, loss, *, exact=False):
            sizes.append(len(x))
            return super().loss_and_grad(x, y, loss, exact=exact)

    monkeypatch.setattr(union, "Oracle", Counting)
    return sizes


def test_union_only_takes_less_work_and_begins_with_the_cheapest_attacks(
    linear, linear_spec, linear_data, tmp_path, monkeypatch, gradients
):
    order = []
    plain = jobs.run_family

    def watched(oracle, data, positions, threat, family, **more):
        order.append((threat.norm, family.name, len(positions)))
        return plain(oracle, data, positions, threat, family, **more)

    monkeypatch.setattr(jobs, "run_family", watched)
    evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
    everything, full_order = sum(gradients), list(order)
    gradients.clear()
    order.clear()
    request = dataclasses.replace(STANDARD, union_only=True)
    evaluate(linear, linear_spec, linear_data, request, tmp_path / "u.sqlite")
    assert sum(gradients) < 0.9 * everything
    assert [names[:2] for names in full_order] == [
        (norm, family) for norm in ("linf", "l2", "l1") for family in ("apgd-ce", "apgd-t")
    ]
    # Five classes: four targets, so that each targeted attack is cheaper than the five restarts in l1.
    targeted = [(norm, "apgd-t") for norm in ("linf", "l2", "l1")]
    cheapest_first = [("linf", "apgd-ce"), ("l2", "apgd-ce"), *targeted, ("l1", "apgd-ce")]
    assert [names[:2] for names in order] == cheapest_first
    left = [n for *_, n in order]
    assert left == sorted(left, reverse=True), "what one norm has broken no other one is asked about"


def test_how_long_it_may_take_is_said_before_the_work_begins(
    linear, linear_spec, linear_data, tmp_path, monkeypatch, no_second_opinion
):
    events = []
    plain = jobs.run_family
    monkeypatch.setattr(union, "say", lambda line: events.append(line))
    monkeypatch.setattr(jobs, "run_family", lambda *args, **more: events.append("attack") or plain(*args, **more))
    evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
    assert "a batch of 40 takes" in events[0]
    assert "left if no point breaks" in events[0]
    assert events[1:] == ["attack"] * 6
    events.clear()
    evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
    assert events == [], "nothing is left"


@pytest.mark.parametrize(
    ("protocol", "norm", "seconds"),
    [
        # Steps of 4 targets and 5 or 1 restarts; FAB's steps on the model itself take 1.5, Square's 0.5 evaluations.
        ("standard", "linf:0.04", 100 + 400),
        ("standard", "l1:0.3", 500 + 400),
        ("full", "l2:0.1", 100 + 400 + 2500 + 10 * 1.5 * 400),
        ("autoattack", "linf:0.04", 10 * 1.5 * (100 + 400 + 1.5 * 400 + 2500)),
        ("autoattack", "l1:0.3", 10 * 1.5 * (500 + 400 + 1.5 * 400 + 2500)),
    ],
)
def test_the_estimate_counts_each_norm_s_own_attacks_on_the_model_that_they_run(
    linear, linear_data, monkeypatch, protocol, norm, seconds
):
    said = []
    monkeypatch.setattr(union, "say", said.append)
    # A batch of all 40 images takes a second in the fast copy, and ten in the model itself.
    monkeypatch.setattr(union, "seconds_per_batch", lambda *args, exact: 10.0 if exact else 1.0)
    request = UnionRequest((Threat.parse(norm),), protocol, seed=0, batch_size=50)
    data = dataclasses.replace(linear_data, n_classes=5)
    with oracle.Oracle(linear) as watched:
        setting = Setting(linear, watched, data, None, seed=0, batch_size=50)
        todo = union._jobs(setting, request)
        union._say_time(watched, data, request, [(job, 40) for job in todo])
    assert f"about {seconds / 60:.0f} min left" in said[0]


def test_the_attacks_precision_is_recorded_and_bf16_finds_the_same_points(
    result, linear, linear_spec, linear_data, tmp_path
):
    request = dataclasses.replace(STANDARD, precision="bf16")
    low = evaluate(linear, linear_spec, linear_data, request, tmp_path / "b.sqlite")
    assert (result.attack.precision, low.attack.precision) == ("float32", "bf16")
    assert low.clean == result.clean
    for norm, verdicts in low.points.robust.items():
        assert sum(a != b for a, b in zip(verdicts, result.points.robust[norm], strict=True)) <= 1


class Half(nn.Linear):
    """A layer that bf16 breaks."""

    def forward(self, x):
        return super().forward(x) / (1 if self.weight.dtype == torch.float32 else 0)


def test_a_model_that_bf16_breaks_is_attacked_and_recorded_in_float32(linear, linear_spec, linear_data, tmp_path):
    fragile = Classifier(nn.Sequential(nn.Flatten(), Half(36, 5)), None)
    fragile.load_state_dict(linear.state_dict())
    request = dataclasses.replace(STANDARD, precision="bf16", protocol="fast")
    found = evaluate(fragile, linear_spec, linear_data, request, tmp_path / "h.sqlite")
    assert found.attack.precision == "float32"
    float32 = dataclasses.replace(request, precision="float32")
    again = evaluate(fragile, linear_spec, linear_data, float32, tmp_path / "h.sqlite")
    assert again.points == found.points, "the store's key has the precision that was used"


def test_the_reference_runs_the_float32_model_and_nothing_else(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("a fast copy was made")

    monkeypatch.setattr(trusted_copy, "FastCopy", refuse)
    monkeypatch.setattr(reference, "run", lambda model, data, meets, *more, **most: iter(()))
    request = UnionRequest(THREATS[:1], "autoattack", seed=0, batch_size=8, precision="bf16")
    found = evaluate(linear, linear_spec, linear_data.select(range(6)), request, tmp_path / "a.sqlite")
    assert found.attack.precision == "float32"


class _StraightThrough(torch.autograd.Function):
    """Pixels in ten levels, with the gradient of the pixels themselves."""

    @staticmethod
    def forward(ctx, x):
        return (x * 10).round() / 10

    @staticmethod
    def backward(ctx, grad):
        return grad


class Quantised(nn.Linear):
    def forward(self, x):
        return super().forward(_StraightThrough.apply(x))


def test_a_quantiser_s_own_gradient_is_attacked_and_breaks_as_many_points_as_without_a_copy(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    model = Classifier(nn.Sequential(nn.Flatten(), Quantised(36, 5)), None)
    model.load_state_dict(linear.state_dict())
    request = UnionRequest((Threat.parse("linf:0.15"),), "fast", seed=0, batch_size=50)
    found = evaluate(model, linear_spec, linear_data, request, tmp_path / "a.sqlite")
    monkeypatch.setattr(trusted_copy, "difference", lambda *args: "refused here")
    itself = evaluate(model, linear_spec, linear_data, request, tmp_path / "b.sqlite")
    assert (found.attack.fast_copy, itself.attack.fast_copy) == (True, False)
    assert found.norms["linf"].acc == itself.norms["linf"].acc < 0.5 < found.clean.acc


def test_a_model_whose_copy_is_not_trusted_is_attacked_itself_and_the_result_says_so(
    linear, linear_spec, linear_data, tmp_path, monkeypatch, capsys
):
    request = dataclasses.replace(STANDARD, protocol="fast")
    trusted = evaluate(linear, linear_spec, linear_data, request, tmp_path / "a.sqlite")
    monkeypatch.setattr(trusted_copy, "difference", lambda *args: "its logits are another's")
    found = evaluate(linear, linear_spec, linear_data, request, tmp_path / "b.sqlite")
    assert "the model itself" in capsys.readouterr().err
    assert [flag for flag in found.flags if flag.startswith("fast-copy: the attacks ran on the model itself")]
    assert (trusted.attack.fast_copy, found.attack.fast_copy) == (True, False)
    assert found.points == trusted.points
    with pytest.raises(RunError, match="attacked"):  # verdicts of a copy are not those of the model itself
        evaluate(linear, linear_spec, linear_data, request, tmp_path / "a.sqlite")


class Blind(nn.Linear):
    def forward(self, x):
        return super().forward(x.detach())


@pytest.mark.parametrize("protocol", ["full", "autoattack"])
def test_a_model_without_gradient_is_attacked_by_square_alone(linear, linear_spec, linear_data, tmp_path, protocol):
    blind = Classifier(nn.Sequential(nn.Flatten(), Blind(36, 5)), None)
    blind.load_state_dict(linear.state_dict())
    request = UnionRequest((Threat.parse("linf:0.4"),), protocol, seed=0, batch_size=8)
    data = linear_data.select(range(8))
    found = evaluate(blind, linear_spec, data, request, tmp_path / "b.sqlite")
    assert found.norms["linf"].acc == 0
    assert any(flag.startswith("zero-gradient: the model gives no gradient at all") for flag in found.flags)
    with Store(tmp_path / "b.sqlite", identity.evaluation_key(blind, linear_spec, data, request)) as store:
        assert store.judged("linf", "square") and not store.judged("linf", "apgd-ce")


@pytest.mark.parametrize("protocol", ["standard", "fast"])
def test_a_protocol_that_follows_gradients_is_refused_where_there_is_none(linear_spec, linear_data, tmp_path, protocol):
    blind = Classifier(nn.Sequential(nn.Flatten(), Blind(36, 5)), None)
    with pytest.raises(RequestError, match=f"--attack {protocol} follow it.*--attack full"):
        evaluate(
            blind, linear_spec, linear_data, dataclasses.replace(STANDARD, protocol=protocol), tmp_path / "b.sqlite"
        )


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


def test_a_black_box_attack_that_does_better_than_gradients_is_flagged(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    plain = jobs.run_family

    def masked(oracle, data, positions, threat, family, **more):
        if family.name == "square":
            return plain(oracle, data, positions, threat, family, **more)
        return iter([Finished(list(positions), data.images(positions))])

    monkeypatch.setattr(jobs, "run_family", masked)
    request = UnionRequest((Threat.parse("linf:0.4"),), "full", seed=0, batch_size=50)
    found = evaluate(linear, linear_spec, linear_data, request, tmp_path / "s.sqlite")
    assert any(flag.startswith("black-box: in linf:0.4 Square broke 36 points") for flag in found.flags)


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
