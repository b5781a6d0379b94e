"""Attacks run on a copy of the model, in bf16 if asked, and the verdicts stay the same."""

import dataclasses

import pytest
import torch
from torch import nn
from union_case import STANDARD, evaluate

from robustctl import trusted_copy
from robustctl.architectures import Classifier
from robustctl.errors import RunError
from robustctl.evaluation.union_request import UnionRequest
from robustctl.threats import Threat


def test_the_attacks_precision_is_recorded_and_bf16_finds_the_same_points(linear, linear_spec, linear_data, tmp_path):
    request = dataclasses.replace(STANDARD, precision="bf16")
    result = evaluate(linear, linear_spec, linear_data, STANDARD, tmp_path / "s.sqlite")
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
