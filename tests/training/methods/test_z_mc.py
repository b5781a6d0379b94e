import math

import pytest
import torch
from pydantic import ValidationError

from robustctl.threats import Threat
from robustctl.training.methods.z_mc import Config, Method
from robustctl.training.sampled import random_losses

LINF = (Threat.of("linf", "0.1"),)


@pytest.mark.parametrize("q", [1.0, 10.0, 1000.0])
def test_loss_is_the_q_norm_over_random_points(example, q: float) -> None:
    config = Config(name="z-mc", samples=6, q=q)
    loss = Method(config, LINF).loss(example.step())
    values = random_losses(example.step(), config.perturbation(LINF), 6)
    restated = (
        torch.stack([(v.double() * q - (v * q).max()).exp().mean().log() / q + v.max() for v in values]).exp().mean()
    )
    example.assert_same(loss, restated)


def test_loss_grows_with_q(example) -> None:
    losses = [Method(Config(name="z-mc", samples=6, q=q), LINF).loss(example.step()).item() for q in (1, 10, 100)]
    assert losses == sorted(losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": 0.5}, "greater than or equal to 1"),
        ({"q": math.inf}, "less than inf"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"distribution": "spatial"}, "training samples pixels"),
        ({"distribution": "gausian:0.1"}, "Did you mean 'gaussian'"),
    ],
)
def test_values_out_of_range_are_refused(changes, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**{"name": "z-mc", "samples": 6, "q": 10, **changes})


def test_one_ball_or_a_distribution_is_asked_for() -> None:
    config = Config(name="z-mc", samples=6, q=10)
    assert config.faults(frozenset({"linf"})) == []
    assert "samples one ball" in config.faults(frozenset({"linf", "l1"}))[0]
    assert "samples one ball" in config.faults(frozenset({"l1"}))[0]
    assert Config(name="z-mc", samples=6, q=10, distribution="gaussian:0.1").faults(frozenset({"linf", "l1"})) == []
