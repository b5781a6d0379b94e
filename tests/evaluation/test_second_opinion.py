"""A second opinion is asked of other attacks than the protocol's; what falls is flagged, printed and not counted."""

import dataclasses

import pytest
import torch

from robustctl.errors import RequestError
from robustctl.evaluation import jobs, second_opinion, union
from robustctl.evaluation.row_scheduler import Finished
from robustctl.evaluation.union_request import UnionRequest
from robustctl.publish.push import check_flags
from robustctl.report.table import before_after
from robustctl.results import union as results
from robustctl.threats import Threat

REQUEST = UnionRequest((Threat.parse("l2:0.4"),), "fast", seed=0, batch_size=50)


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        ("standard", ["fab", "fmn", "square"]),
        ("adaptive", ["fab", "fmn", "square"]),
        ("full", ["fmn"]),
        ("autoattack", ["fmn"]),
        ("adaptive+", ["fmn"]),
    ],
)
def test_the_kinds_are_those_that_the_protocol_does_not_use(protocol, kinds):
    assert [family.attack for family in second_opinion.kinds(protocol, Threat.parse("l2:0.5"))] == kinds


def test_the_sample_is_small_and_depends_on_seed_and_index_alone():
    indices = list(range(10_000))
    assert [len(second_opinion.sample(range(n), indices, 0)) for n in (3, 20, 1000, 10_000)] == [3, 8, 20, 50]
    first = second_opinion.sample(range(1000), indices, 0)
    assert first != second_opinion.sample(range(1000), indices, 1)
    turned = second_opinion.sample(range(1000), indices[:1000][::-1], 0)
    assert sorted(999 - position for position in turned) == first


def _blindfolded(plain):
    """The attacks, of which those by projected gradients propose the images themselves."""

    def run(asked, positions):
        if asked.family.attack == "apgd":
            return iter([Finished(list(positions), asked.data.images(positions))])
        return plain(asked, positions)

    return run


@pytest.fixture
def misled(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    """An evaluation whose own attacks propose the images themselves."""
    monkeypatch.setattr(jobs, "run_family", _blindfolded(jobs.run_family))
    options = {"name": "m", "device": torch.device("cpu"), "store_path": tmp_path / "s.sqlite"}
    return union.evaluate_union(linear, linear_spec, linear_data, REQUEST, **options)


def test_a_survivor_that_falls_is_flagged_printed_as_at_most_and_stops_a_push(misled, tmp_path):
    opinion = misled.second_opinion["l2"]
    assert opinion.sample == 8
    assert 4 < opinion.fell == sum(opinion.by.values())
    assert misled.norms["l2"].acc == misled.clean.acc, "it is no verdict"
    told = f"second-opinion: in l2:0.4 {opinion.fell} of 8 sampled survivors fell to"
    assert any(flag.startswith(told) for flag in misled.flags)
    rows = {line.split()[0]: line for line in before_after([("m", misled)]).splitlines() if "90.0" in line}
    assert "<= 90.0" in rows["l2:0.4"] and "<=" not in rows["clean"]
    assert misled.is_bound("union") and misled.is_bound("average")
    with pytest.raises(RequestError, match="second-opinion"):
        check_flags([misled], allow=False)
    misled.write(tmp_path / "r.json")
    assert results.read(tmp_path / "r.json") == misled


def test_of_a_linear_classifier_those_of_the_sample_fall_that_the_closed_form_breaks(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    """Far from the box a point is breakable if another class is nearer than the radius."""
    data = dataclasses.replace(linear_data, x=linear_data.x * 0.4 + 0.3)
    monkeypatch.setattr(jobs, "run_family", _blindfolded(jobs.run_family))
    request = dataclasses.replace(REQUEST, threats=(Threat.parse("l2:0.1"),))
    options = {"name": "m", "device": torch.device("cpu"), "store_path": tmp_path / "s.sqlite"}
    found = union.evaluate_union(linear, linear_spec, data, request, **options)
    survivors = [position for position, robust in enumerate(found.points.robust["l2"]) if robust]
    asked = second_opinion.sample(survivors, data.indices.tolist(), request.seed)
    weight, scores = linear.net[1].weight.double(), linear.net[1](data.x.flatten(1)).double()
    gaps = (scores.gather(1, data.y[:, None]) - scores)[asked]
    distance = gaps / torch.linalg.vector_norm(weight[None] - weight[data.y[asked]][:, None], dim=2)
    nearest = distance.nan_to_num(torch.inf).masked_fill(gaps == 0, torch.inf).amin(dim=1)
    assert 0 < int((nearest < 0.1).sum()) < len(asked)
    assert found.second_opinion["l2"].fell == int((nearest < 0.1).sum())


def test_where_nothing_falls_nothing_is_flagged_and_the_second_time_nothing_is_attacked(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    request = dataclasses.replace(REQUEST, threats=(Threat.parse("l2:0.05"),), protocol="standard")
    options = {"name": "m", "device": torch.device("cpu"), "store_path": tmp_path / "s.sqlite"}
    first = union.evaluate_union(linear, linear_spec, linear_data, request, **options)
    assert first.second_opinion["l2"].fell == 0
    assert first.second_opinion["l2"].evaluations > 0
    assert not any(flag.startswith("second-opinion") for flag in first.flags)
    monkeypatch.setattr(jobs, "run_family", lambda *args, **more: pytest.fail("attacked again"))
    again = union.evaluate_union(linear, linear_spec, linear_data, request, **options)
    assert (again.points, again.second_opinion) == (first.points, first.second_opinion)
