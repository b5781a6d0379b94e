"""A model whose gradients are none, or lead nowhere, does not look robust."""

import dataclasses

import pytest
from torch import nn
from union_case import STANDARD, evaluate

from robustctl.architectures import Classifier
from robustctl.errors import RequestError
from robustctl.evaluation import identity, jobs
from robustctl.evaluation.row_scheduler import Finished
from robustctl.evaluation.store import Store
from robustctl.evaluation.union_request import UnionRequest
from robustctl.threats import Threat


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
