"""The bound on missed breaks holds where the truth is known, and an audit ends when it is low enough."""

import dataclasses
import json
import math
import random

import pytest
import torch

from robustctl.errors import RequestError
from robustctl.evaluation import adaptive, missed, protocols
from robustctl.evaluation.missed import audit, enough, most_missed
from robustctl.evaluation.protocols import Family, Round
from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.processes import World
from robustctl.results import union as results
from robustctl.threats import Threat

L2 = Threat.parse("l2:0.4")


def probability(survivors, drawn, fell, breakable):
    """That at most so many of the drawn are breakable, by counting in whole numbers."""
    ways = sum(math.comb(breakable, one) * math.comb(survivors - breakable, drawn - one) for one in range(fell + 1))
    return ways / math.comb(survivors, drawn)


@pytest.mark.parametrize(
    ("survivors", "drawn", "fell"), [(40, 10, 0), (40, 10, 3), (40, 39, 1), (7, 3, 0), (300, 90, 2)]
)
def test_the_bound_is_the_largest_number_that_the_sample_does_not_rule_out(survivors, drawn, fell):
    found = most_missed(survivors, drawn, fell, 0.05)
    assert probability(survivors, drawn, fell, fell + found) > 0.05 * (1 - 1e-9)  # one case is 0.05 itself
    if found < survivors - drawn:
        assert probability(survivors, drawn, fell, fell + found + 1) <= 0.05
    assert most_missed(survivors, survivors, fell, 0.05) == 0


def test_a_number_whose_probability_is_the_error_itself_is_ruled_out():
    assert most_missed(10, 0, 0, 1.0) == 0  # nothing was drawn, which has the probability 1 whatever would fall
    assert most_missed(10, 0, 0, 0.999) == 10


def test_of_many_survivors_it_is_the_binomial_bound():
    """Clopper and Pearson's upper bound without a fall is 1 - error ** (1 / drawn)."""
    assert most_missed(1_000_000, 300, 0, 0.05) / 1_000_000 == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-3)


def test_no_smaller_sample_would_be_enough():
    drawn = enough(500, 0, 0.025, 4)
    assert most_missed(500, drawn, 0, 0.025) <= 4 < most_missed(500, drawn - 1, 0, 0.025)


@pytest.mark.parametrize("breakable", [0, 3, 12, 60])
def test_the_bound_holds_in_95_of_100_audits_although_each_looks_until_it_is_content(breakable):
    """The survivors that the full budget would break are known here; whether they are drawn is chance."""
    chance, wrong, drawn = random.Random(breakable), 0, []
    for _ in range(400):
        survivors = list(range(400))
        chance.shuffle(survivors)
        found = audit(survivors, 5, lambda positions: {one for one in positions if one < breakable})
        assert found.missed <= 5
        wrong += breakable - found.fell > found.missed
        drawn.append(found.drawn)
    assert wrong <= 0.05 * 400
    assert max(drawn) <= 400 and (breakable or max(drawn) < 300)


def test_survivors_that_all_fall_are_all_drawn():
    found = audit(list(range(20)), 0, set)
    assert (found.drawn, found.fell, found.missed) == (20, 20, 0)


@pytest.fixture
def weak(monkeypatch):
    """A protocol whose only round takes one short step, and a full budget that is enough for a linear classifier."""
    first = Round("first", (Family("first", "margin", 1, 0, 1, False),), "all", share=1)
    monkeypatch.setitem(protocols.ROUNDS, "adaptive", {"l2": (first,)})
    monkeypatch.setitem(protocols.PROTOCOLS, "full", {"l2": (Family("apgd-t", "dlr_targeted", 1, 4, 20, False),)})


def robust(model, data):
    """Whether no point of the l_2 ball changes a linear classifier's answer, by the closed form."""
    weight, scores = model.net[1].weight.double(), model.net[1](data.x.flatten(1)).double()
    gaps = scores.gather(1, data.y[:, None]) - scores
    reach = L2.eps * torch.linalg.vector_norm(weight[None] - weight[data.y][:, None], dim=2)
    return (gaps > reach).logical_or(torch.nn.functional.one_hot(data.y, 5) > 0).all(dim=1)


def run(linear, spec, data, path, **changes):
    request = dataclasses.replace(UnionRequest((L2,), "adaptive", seed=0, batch_size=50, until=5.0), **changes)
    return evaluate_union(linear, spec, data, request, name="m", device=torch.device("cpu"), store_path=path)


def test_of_a_linear_classifier_no_more_is_missed_than_the_bound_says(weak, linear, linear_spec, linear_data, tmp_path):
    inner = ((linear_data.x > 0.02) & (linear_data.x < 0.98)).flatten(1).all(1)
    data = dataclasses.replace(linear_data, x=linear_data.x * 0.4 + 0.3)  # far from the box, so that the form is exact
    assert inner.any()
    truth = robust(linear, data)
    wrong = 0
    for seed in range(8):
        found = run(linear, linear_spec, data, tmp_path / f"{seed}.sqlite", seed=seed)
        left = torch.tensor(found.points.robust["l2"]) > 0
        one = found.missed["l2"]
        assert one.points < 5 and one.drawn <= one.survivors and found.missed["union"].missed == one.missed
        wrong += int((left & ~truth).sum()) > one.missed
    assert wrong <= 1


def test_an_audit_that_is_killed_goes_on_to_the_same_bound_and_a_lower_one_goes_on_from_there(
    weak, linear, linear_spec, linear_data, tmp_path, monkeypatch, capsys
):
    whole = run(linear, linear_spec, linear_data, tmp_path / "whole.sqlite")
    assert "audit of l2: " in capsys.readouterr().err
    assert any(line.startswith("audit of union") for line in whole.origins())
    plain = missed._attacker

    def dies(*args):
        fell = plain(*args)

        def attack(drawn):
            fell(drawn)
            raise KeyboardInterrupt

        return attack

    monkeypatch.setattr(missed, "_attacker", dies)
    with pytest.raises(KeyboardInterrupt):
        run(linear, linear_spec, linear_data, tmp_path / "parts.sqlite")
    monkeypatch.setattr(missed, "_attacker", plain)
    resumed = run(linear, linear_spec, linear_data, tmp_path / "parts.sqlite")
    assert (resumed.points, resumed.missed) == (whole.points, whole.missed)
    lower = run(linear, linear_spec, linear_data, tmp_path / "parts.sqlite", until=1.0)
    assert lower.missed["l2"].missed == 0
    assert lower.missed["l2"].drawn >= whole.missed["l2"].drawn
    lower.write(tmp_path / "r.json")
    assert results.read(tmp_path / "r.json") == lower
    assert "missed" in json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize("changes", [{"protocol": "standard"}, {"until": 0.0}, {"until": 101.0}, {"until": math.nan}])
def test_an_audit_that_cannot_be_is_refused(changes):
    with pytest.raises(RequestError, match="--until"):
        dataclasses.replace(UnionRequest((L2,), "adaptive", seed=0, batch_size=50, until=5.0), **changes)


def test_processes_agree_on_what_was_broken_before():
    class Two(World):
        def exchange(self, found):
            return {**found, 7: True}

    assert adaptive.everybodys({"l2": {3}, "l1": set()}, Two()) == {"l2": {3, 7}, "l1": {7}}
