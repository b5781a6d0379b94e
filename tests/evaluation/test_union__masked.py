"""A model whose gradients are none, or lead nowhere, does not look robust."""

import dataclasses

import pytest
import torch
from torch import nn
from union_case import STANDARD, evaluate

from robustctl.architectures import Classifier
from robustctl.errors import RequestError
from robustctl.evaluation import identity, jobs
from robustctl.evaluation.row_scheduler import Finished
from robustctl.evaluation.store import Store
from robustctl.evaluation.union_request import UnionRequest
from robustctl.threats import NORMS, Threat


class Blind(nn.Linear):
    def forward(self, x):
        return super().forward(x.detach())


@pytest.mark.parametrize("protocol", ["full", "autoattack", "adaptive", "adaptive+"])
def test_a_model_without_gradient_is_attacked_by_square_alone(linear, linear_spec, linear_data, tmp_path, protocol):
    blind = Classifier(nn.Sequential(nn.Flatten(), Blind(36, 5)), None)
    blind.load_state_dict(linear.state_dict())
    request = UnionRequest((Threat.parse("linf:0.4"),), protocol, seed=0, batch_size=8)
    data = linear_data.select(range(8))
    found = evaluate(blind, linear_spec, data, request, tmp_path / "b.sqlite")
    assert found.norms["linf"].acc == 0
    assert any(flag.startswith("zero-gradient: the model gives no gradient at all") for flag in found.flags)
    with Store(tmp_path / "b.sqlite", identity.evaluation_key(blind, linear_spec, data, request)) as store:
        assert set(store.families()) <= {"square", "flat-square-1"}


def test_until_asks_square_alone_about_a_model_without_gradient(linear, linear_spec, linear_data, tmp_path):
    blind = Classifier(nn.Sequential(nn.Flatten(), Blind(36, 5)), None)
    blind.load_state_dict(linear.state_dict())
    request = UnionRequest((Threat.parse("linf:0.02"),), "adaptive", seed=0, batch_size=8, until=10)
    data = linear_data.select(range(4))
    found = evaluate(blind, linear_spec, data, request, tmp_path / "b.sqlite")
    assert found.missed["linf"].missed == 0
    with Store(tmp_path / "b.sqlite", identity.evaluation_key(blind, linear_spec, data, request)) as store:
        assert {"flat-square-1", "audit: square"} <= set(store.families())
        assert all("square" in family for family in store.families())


class Rounded(nn.Linear):
    """A quantiser without a backward pass of its own: its gradient is zero."""

    def forward(self, x):
        return super().forward((x * 16).round() / 16)


class PartlyRounded(nn.Linear):
    """Images whose first pixel is dark are quantised, the others are not."""

    def forward(self, x):
        return super().forward(torch.where(x[:, :1] < 0.5, (x * 16).round() / 16, x))


@pytest.mark.parametrize("norm", NORMS)
def test_a_quantiser_s_zero_gradient_does_not_make_a_model_look_robust(
    linear, linear_spec, linear_data, tmp_path, norm
):
    rounded = Classifier(nn.Sequential(nn.Flatten(), Rounded(36, 5)), None)
    rounded.load_state_dict(linear.state_dict())
    threat = Threat.parse({"linf": "linf:0.3", "l2": "l2:1", "l1": "l1:4"}[norm])
    data = linear_data.select(range(12))
    request = UnionRequest((threat,), "adaptive", seed=0, batch_size=12)
    found = evaluate(rounded, linear_spec, data, request, tmp_path / "r.sqlite")
    assert found.norms[norm].acc == 0
    assert any(flag.startswith(f"black-box: in {threat} Square broke") for flag in found.flags)
    last = found.rounds[-1]
    assert (last.name, last.left, last.broken) == ("flat-square-1", last.met, last.met)
    assert last.decision == "no gradient to follow there"


def test_square_meets_those_points_alone_that_have_no_gradient(linear, linear_spec, linear_data, tmp_path):
    partly = Classifier(nn.Sequential(nn.Flatten(), PartlyRounded(36, 5)), None)
    partly.load_state_dict(linear.state_dict())
    data = linear_data.select(range(8))
    request = UnionRequest((Threat.parse("linf:0.01"),), "adaptive", seed=0, batch_size=12)
    evaluate(partly, linear_spec, data, request, tmp_path / "p.sqlite")
    dark = {position for position, x in enumerate(data.x.flatten(1)) if x[0] < 0.5}
    assert 0 < len(dark) < 8
    with Store(tmp_path / "p.sqlite", identity.evaluation_key(partly, linear_spec, data, request)) as store:
        met, right = store.judged("linf", "flat-square-1"), {one for one, right in store.clean().items() if right}
        assert met and met == dark & right - (store.broken("linf") - store.broken("linf", "flat-square-1"))


@pytest.mark.parametrize("protocol", ["standard", "fast"])
def test_a_protocol_that_follows_gradients_is_refused_where_there_is_none(linear_spec, linear_data, tmp_path, protocol):
    blind = Classifier(nn.Sequential(nn.Flatten(), Blind(36, 5)), None)
    with pytest.raises(RequestError, match=f"--attack {protocol} follow it.*--attack adaptive or full"):
        evaluate(
            blind, linear_spec, linear_data, dataclasses.replace(STANDARD, protocol=protocol), tmp_path / "b.sqlite"
        )


def test_a_black_box_attack_that_does_better_than_gradients_is_flagged(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    plain = jobs.run_family

    def masked(run, positions):
        if run.family.name == "square":
            return plain(run, positions)
        return iter([Finished(list(positions), run.data.images(positions))])

    monkeypatch.setattr(jobs, "run_family", masked)
    request = UnionRequest((Threat.parse("linf:0.4"),), "full", seed=0, batch_size=50)
    found = evaluate(linear, linear_spec, linear_data, request, tmp_path / "s.sqlite")
    assert any(flag.startswith("black-box: in linf:0.4 Square broke 36 points") for flag in found.flags)
