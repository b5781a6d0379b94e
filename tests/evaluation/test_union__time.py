"""How much work an evaluation takes, and how long it says that it may take."""

import dataclasses

import pytest
from union_case import STANDARD, evaluate

from robustctl import oracle
from robustctl.evaluation import jobs, second_opinion, union
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.union_request import UnionRequest
from robustctl.progress import duration
from robustctl.threats import Threat


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

    def watched(run, positions):
        order.append((run.threat.norm, run.family.name, len(positions)))
        return plain(run, positions)

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
    assert f"about {duration(seconds)} left" in said[0]
