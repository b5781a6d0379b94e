"""RCRT: threats come one after the other; logits are kept close."""

from typing import Any

import pytest
import torch

from robustctl import geometry
from robustctl.errors import RequestError
from robustctl.oracle import Oracle
from robustctl.perturbations.boxed import Boxed, BoxedLimit
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods.rcrt import Config, Method, farthest

THREATS = (Threat.of("linf", "0.1"), Threat.of("l2", "0.5"), Threat.of("l1", "1.5"))


def method(**changes: Any) -> Method:
    block = {"name": "rcrt", "order": ("l1", "linf", "l2"), "every": 2, "weight": 0.0, **changes}
    return Method(Config.model_validate(block), THREATS)


def test_threats_become_known_in_the_order_of_the_recipe() -> None:
    target = method()
    seen = []
    for _ in range(7):
        target.start_epoch()
        seen.append([threat.norm for threat in target.known])
    assert seen == [["l1"]] * 2 + [["l1", "linf"]] * 2 + [["l1", "linf", "l2"]] * 3


def test_the_epoch_is_kept_in_the_state() -> None:
    target, other = method(), method()
    for _ in range(3):
        target.start_epoch()
    other.load_state(target.gathered_state(World()), World())
    assert [threat.norm for threat in other.known] == ["l1", "linf"]


@pytest.mark.parametrize(("known", "attacks"), [("newest", ["l2"]), ("max", ["l1", "linf", "l2"])])
def test_known_threats_are_met_as_the_recipe_says(example: Any, known: str, attacks: list[str]) -> None:
    target = method(known=known)
    for _ in range(5):
        target.start_epoch()
    step = example.step()
    loss = target.loss(step)
    by_norm = {threat.norm: threat for threat in THREATS}
    assert len(step.points) == len(attacks)
    for point, norm in zip(step.points, attacks, strict=True):
        assert (geometry.norm(point - step.x, norm) <= by_norm[norm].eps).all()
    values = torch.stack([-example.model(point).log_softmax(1)[torch.arange(6), step.labels] for point in step.points])
    example.assert_same(loss, values.amax(0).mean())


def test_random_draws_each_known_threat_and_no_other(example: Any) -> None:
    target = method(known="random")
    for _ in range(3):
        target.start_epoch()
    drawn = {target._chosen(example.step(number=number))[0].norm for number in range(20)}
    assert drawn == {"l1", "linf"}


def test_the_regulariser_is_the_mean_length_of_the_logits_movement(example: Any) -> None:
    plain, target = method(known="newest"), method(known="newest", weight=0.7)
    step = example.step()
    loss = target.loss(step)
    moved = example.model(step.points[1]) - example.model(step.x)
    example.assert_same(loss, plain.loss(example.step()) + 0.7 * moved.norm(dim=1).mean())


def test_the_regularisers_attack_moves_the_logits_further_than_noise_does(example: Any) -> None:
    lengths = {}
    for steps in (10, "noise"):
        step = example.step()
        method(known="newest", weight=1.0, steps=steps).loss(step)
        with torch.no_grad():
            lengths[steps] = (example.model(step.points[1]) - example.model(step.x)).norm(dim=1)
        assert (geometry.norm(step.points[1] - step.x, "l1") <= 1.5).all()
    assert (lengths[10] > lengths["noise"]).all()


@pytest.mark.parametrize("order", [("linf", "l1"), ("linf", "l1", "l1"), ("linf", "l1", "l2", "l2")])
def test_an_order_that_does_not_name_each_threat_once_is_refused(order: tuple[str, ...]) -> None:
    config = Config.model_validate({"name": "rcrt", "order": order, "every": 1})
    assert config.faults(frozenset({"linf", "l2", "l1"}))


def test_an_unknown_threat_is_refused_and_the_nearest_are_named() -> None:
    config = Config.model_validate({"name": "rcrt", "order": ("linf", "stadw:0.2"), "every": 1})
    (fault,) = config.faults(frozenset({"linf"}))
    assert "unknown threat 'stadw'" in fault and "Did you mean 'stadv'?" in fault


def test_one_threat_alone_is_refused() -> None:
    config = Config.model_validate({"name": "rcrt", "order": ("linf",), "every": 1})
    assert config.faults(frozenset({"linf"})) == ["method.order: method rcrt trains on several threats, not on one"]


@pytest.mark.parametrize("written", ["stadv:-1", "stadv:many", "recolor:2", "l0:3", "rotation-translation:3"])
def test_a_kind_with_a_budget_that_cannot_be_or_without_a_box_is_refused(written: str) -> None:
    with pytest.raises(RequestError, match=r"^method\.order: threat"):
        Method(Config.model_validate({"name": "rcrt", "order": ("linf", written), "every": 1}), THREATS[:1])


@pytest.mark.parametrize("known", ["newest", "max", "random"])
def test_kinds_come_in_the_order_and_their_points_keep_the_budget(example: Any, known: str) -> None:
    block = {"name": "rcrt", "order": ("linf", "stadv:0.4", "recolor:0.1"), "every": 1, "known": known, "weight": 0.5}
    target = Method(Config.model_validate(block), THREATS[:1])
    for _ in range(3):
        target.start_epoch()
    step = example.step()
    assert torch.isfinite(target.loss(step))
    assert [str(getattr(threat, "name", "linf")) for threat in target.known] == ["linf", "stadv", "recolor"]
    if known != "random":  # no colour moves farther than the table of changes lets it
        assert (geometry.norm(step.points[-1] - step.x, "linf") <= 0.1 + 1e-6).all()


def test_training_points_of_a_kind_have_a_higher_loss_than_its_random_start(example: Any) -> None:
    step, limit = example.step(), BoxedLimit.parse("stadv:1")
    oracle = Oracle(example.model)
    losses = []
    for steps in (0, 10):
        points = limit.pgd(oracle, step.x, step.labels, step.generators, steps=steps)
        losses.append(-example.model(points).log_softmax(1)[torch.arange(6), step.labels])
        object.__setattr__(step, "generators", example.step().generators)
    assert (losses[1] > losses[0]).all()


def test_training_steps_of_a_kind_add_up_to_two_and_a_half_times_half_its_box(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, limit = example.step(), BoxedLimit.parse("recolor:0.1")
    kind = limit.kind
    assert isinstance(kind, Boxed)
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(
        type(kind), "start", lambda self, task: torch.zeros_like(self.bounds(task.x, 0.1)[0]).repeat(6, 1)
    )
    monkeypatch.setattr(type(kind), "project", lambda self, z, x, budget: moved.append(z) or z)
    limit.pgd(Oracle(example.model), step.x, step.labels, step.generators, steps=5)
    assert len(moved) == 5
    assert moved[0].abs().amax() == pytest.approx(2.5 * 0.1 / 5)
    assert moved[4].abs().amax() == pytest.approx(2.5 * 0.1)


def test_the_regularisers_attack_crosses_the_ball_two_and_a_half_times(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(
        "robustctl.attacks.pgd.pgd", lambda oracle, x, *_, step_size, **more: sizes.append(step_size) or x
    )
    farthest(example.step(), THREATS[1], 10)(example.oracle if hasattr(example, "oracle") else Oracle(example.model))
    assert sizes == [pytest.approx(2.5 * 0.5 / 10)]
