"""Independent attackers against the points that survive a protocol; ``python -m pytest -m attackers``.

docs/trust.md has the counts of more models and points, by ``tests/support/attackers.py``.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import robustctl
from robustctl import data
from robustctl.architectures import Classifier, kw_small, wide_resnet
from robustctl.threats import NORMS

pytestmark = [
    pytest.mark.attackers,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("adv_lib", "foolbox", "numba"))), reason="the attackers are an extra"
    ),
]


def test_every_norm_has_attackers_of_both_libraries() -> None:
    from attackers import attackers

    for norm in NORMS:
        assert {"FMN", "PDPGD", "Brendel-Bethge"} <= attackers(norm).keys()
    assert attackers("l2").keys() >= {"DDN", "ALMA", "PDGD"}


def test_the_attackers_break_the_survivors_of_an_attack_that_does_not_attack(linear_data: Any, linear: Any) -> None:
    from attackers import attack_survivors

    result = robustctl.evaluate(linear, data=linear_data, threats="l2:3", protocol="fast")
    assert result.norms["l2"].acc == 0
    points = result.points.model_copy(update={"robust": {"l2": result.points.clean}})
    (report,) = attack_survivors(linear, linear_data, result.model_copy(update={"points": points}))
    assert len(report.together) == len(report.survivors) == result.clean.n_correct


@pytest.mark.parametrize("name", ["wide-resnet", "kw-small"])
def test_almost_nothing_that_survives_the_standard_protocol_on_cifar10_falls(shared: Path, name: str) -> None:
    from attackers import attack_survivors

    model, threats = _wide_resnet(shared) if name == "wide-resnet" else _kw_small(shared)
    images = data.load(str(shared / "data/cifar10-jpeg"), "test", 30)
    result = robustctl.evaluate(model, data=images, threats=threats, protocol="standard", precision="float32")
    for report in attack_survivors(model.requires_grad_(False), images, result):
        print(f"{name}: {report}")
        assert len(report.together) <= 1


def test_the_optimality_of_distances_is_1_for_the_envelope_and_0_for_nothing() -> None:
    from optimality import optimality

    envelope = torch.tensor([0.0, 1.0, 2.0, 4.0]).double()
    assert optimality(envelope, envelope) == 1
    assert optimality(torch.full((4,), torch.inf).double(), envelope) == 0
    assert optimality(torch.tensor([0.0, 2.0, 3.0, torch.inf]).double(), envelope) == pytest.approx(7 / 9)


def test_our_curves_come_near_the_envelope_of_other_libraries_on_digits() -> None:
    from optimality import measure

    images = data.load("digits", "test", 12)
    model = robustctl.load_model("digits-linf").requires_grad_(False)
    table, n = measure(model, images, {"linf": "0.15", "l0": "1"}, 400)
    assert 0 < n <= 12
    for norm, rows in table.items():
        print(norm, rows)
        assert {"robustctl --curve", "FMN", "PDPGD", "Brendel-Bethge"} <= rows.keys()
        assert rows["robustctl --curve"].share > 0.95
        assert all(one.low <= one.share <= one.high for one in rows.values())
        assert all(one.queries <= 440 for name, one in rows.items() if "robustctl" not in name)


def _wide_resnet(shared: Path) -> tuple[nn.Module, str]:
    from safetensors.torch import load_file

    net = wide_resnet.build(10, (3, 32, 32), depth=10, width=1)
    net.load_state_dict(load_file(shared / "models/cifar10-wrn10-1-linf.safetensors"))
    return Classifier(net, None).eval(), "linf:8/255,l2:0.5,l1:12"


def _kw_small(shared: Path) -> tuple[nn.Module, str]:
    from robustctl.spec import Normalization

    net = kw_small.build(10, (3, 32, 32))
    stored: Any = torch.load(shared / "models/cifar_wide_kw.pth", weights_only=True, map_location="cpu")
    net.load_state_dict(stored["state_dict"][0])
    return Classifier(net, Normalization(mean=[0.485, 0.456, 0.406], std=[0.225, 0.225, 0.225])).eval(), (
        "linf:2/255,l2:0.25,l1:4"
    )
