"""Exact verdicts against a search of the whole ball, on networks with two pixels."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from robustctl.certify.bounds import margin_bound
from robustctl.certify.exact import CUT
from robustctl.threats import Norm, Threat

X = torch.tensor([0.45, 0.6], dtype=torch.float64).view(1, 1, 1, 2)
EPS = {"linf": 0.2, "l1": 0.3}


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[1::2]:
            layer.weight.mul_(2)
    return network.double().requires_grad_(False)


def _ball(norm: str) -> Tensor:
    """A grid of the ball cut with the box, 0.25 % of the radius apart."""
    steps = torch.linspace(-1, 1, 801, dtype=torch.float64) * EPS[norm]
    delta = torch.cartesian_prod(steps, steps)
    if norm == "l1":
        delta = delta[delta.abs().sum(1) <= EPS[norm]]
    return (X.view(1, 2) + delta).clamp(0, 1).view(-1, 1, 1, 2)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_its_verdict_is_the_truth_where_crown_has_none(norm: Norm) -> None:
    threat, ball, verdicts = Threat(norm, EPS[norm], str(EPS[norm])), _ball(norm), []
    for seed in (0, 1, 2, 3, 7, 12, 23, 24):
        network = _network(seed)
        logits = network(ball)
        label = int(network(X).argmax())
        others = torch.arange(3) != label
        least = float((logits[:, [label]] - logits[:, others]).min())
        if abs(least) < 0.01:  # nearer than the grid can tell
            continue
        crown = margin_bound(network, X, label, threat, 64, ball[:4])
        found = margin_bound(network, X, label, threat, 64, ball[:4], seconds=20)
        assert crown.bound <= found.bound
        if least > 0:
            assert found.bound >= min(CUT, crown.bound) and found.bound > 0 and found.image is None
        else:
            assert found.bound <= 0 and found.image is not None
            change = found.image - X
            size = change.abs().max() if norm == "linf" else change.abs().sum()
            assert size <= EPS[norm] * (1 + 1e-6)
            assert int(network(found.image).argmax()) != label
        verdicts.append((crown.bound > 0, least > 0))
    assert {(True, True), (False, True), (False, False)} <= set(verdicts)  # bounds alone leave points open


def test_it_leaves_l2_and_wrong_images_to_the_bounds() -> None:
    network = _network(1)
    wrong = int(network(X).argmin())
    for threat, label in itertools.product([Threat("l2", 0.2, "0.2"), Threat("linf", 0.2, "0.2")], [wrong]):
        assert margin_bound(network, X, label, threat, 64, X, seconds=20) == margin_bound(
            network, X, label, threat, 64, X
        )
