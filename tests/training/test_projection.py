import math

import torch
from torch import nn

from robustctl.training.projection import GradientProjection, layer_cosine, merged


def test_merge_agrees_with_equations_4_to_7_layer_by_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    projection = GradientProjection(beta=0.3)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    moves = {name: (torch.randn_like(p), torch.randn_like(p)) for name, p in model.named_parameters()}
    moves["0.weight"] = (moves["0.weight"][1] * -2, moves["0.weight"][1])  # opposed: nothing is kept
    projection.begin(model)
    for kind in (0, 1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + moves[name][kind])
        if kind == 0:
            projection.rewind(model)
            assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
    cosines = projection.merge(model)
    for (name, parameter), cosine in zip(model.named_parameters(), cosines, strict=True):
        natural, adversarial = (move.flatten().tolist() for move in moves[name])
        product = sum(a * b for a, b in zip(natural, adversarial, strict=True))
        expected = product / math.sqrt(sum(a * a for a in natural)) / math.sqrt(sum(b * b for b in adversarial))
        assert math.isclose(cosine, expected, rel_tol=1e-9)
        kept = [max(expected, 0.0) * a for a in natural]
        merged_by_hand = [
            w + 0.3 * k + 0.7 * b for w, k, b in zip(start[name].flatten().tolist(), kept, adversarial, strict=True)
        ]
        torch.testing.assert_close(parameter.flatten().tolist(), merged_by_hand, rtol=0, atol=1e-9)
    assert cosines[0] < 0


def test_layer_that_did_not_move_has_cosine_zero() -> None:
    assert float(layer_cosine(torch.zeros(3), torch.ones(3))) == 0.0


def test_beta_zero_is_plain_adversarial_training() -> None:
    natural, adversarial = torch.ones(3), torch.arange(3.0)
    assert torch.equal(merged(natural, adversarial, torch.tensor(0.5), 0.0), adversarial)
