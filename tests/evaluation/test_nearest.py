"""Distances of a linear classifier are known; and a search of balls of many radii moves each row in its own."""

import pytest
import torch
from torch import nn

from robustctl import geometry, losses
from robustctl.evaluation import nearest
from robustctl.evaluation.nearest import climb
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat


@pytest.mark.parametrize("norm", NORMS)
def test_each_row_stays_in_its_own_ball(linear_model: nn.Module, norm: Norm) -> None:
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = linear_model(x).argmax(1)
    radii = torch.tensor([0.001, 0.01, 0.02, 0.05, 0.1, 0.001])
    with Oracle(linear_model) as oracle:
        x_adv = climb(oracle, x, y, Threat(norm, 1.0, ""), radii, losses.margin, 10)
        alone = climb(oracle, x[3:4], y[3:4], Threat(norm, 1.0, ""), radii[3:4], losses.margin, 10)
    assert (geometry.norm(x_adv - x, norm) <= radii * (1 + 1e-4)).all()
    assert (geometry.norm(x_adv - x, norm) >= radii * 0.5).all()
    assert torch.allclose(alone[0], x_adv[3], atol=1e-6)


def test_the_cost_counts_a_gradient_as_one_and_a_query_as_half_and_l1_begins_in_a_wider_ball() -> None:
    steps = 6 * (15 + 60) + 40
    climbs = len(nearest.LOSSES) * 50 + 8 * 20
    queries = (6 + 1 + 8 + 1) * (14 + 3) / 2
    assert nearest.cost("linf") == nearest.cost("l2") == steps + climbs + queries
    assert nearest.cost("l1") == steps + 1.5 * climbs + queries


def test_far_points_are_misclassified_or_have_gone_all_their_steps(linear_model: nn.Module) -> None:
    """No row depends on the others, and a row that is misclassified moves no more."""
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = linear_model(x).argmax(1)
    with Oracle(linear_model) as oracle:
        target = nearest.ranked(oracle, x, y, 0)
        found = nearest.far(oracle, x, y, target)
        alone = nearest.far(oracle, x[2:3], y[2:3], target[2:3])
        beyond = nearest.far(oracle, found, y, target)
    assert (linear_model(found).argmax(1) != y).all() and geometry.norm(found - x, "linf").min() > 0.19
    assert torch.allclose(alone[0], found[2]) and torch.equal(beyond, found)


def test_ranks_count_wrong_classes_from_the_likeliest() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(model[1].weight)
    model[1].bias = nn.Parameter(torch.tensor([1.0, 3.0, 2.0]))
    with Oracle(model) as oracle:
        found = [
            nearest.ranked(oracle, torch.rand(2, 1, 4, 4), torch.tensor([1, 2]), rank).tolist() for rank in (0, 1, 2)
        ]
    assert found == [[2, 1], [0, 0], [0, 0]]


def test_points_come_nearer_along_the_line_up_to_the_boundary_and_those_that_are_right_stay() -> None:
    """The class is that of the larger of two sums of colour images: the boundary is half way."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.full((27,), -1.0), torch.ones(27)]))
        bias = nn.Parameter(torch.tensor([13.5, -13.5]))
    model[1].bias = bias  # the sum is compared with 13.5, which is grey
    x = torch.stack([torch.full((3, 3, 3), 0.2), torch.full((3, 3, 3), 0.4), torch.full((3, 3, 3), 0.1)])
    there = torch.stack([torch.full((3, 3, 3), 1.0), torch.full((3, 3, 3), 0.9), torch.full((3, 3, 3), 0.3)])
    with Oracle(model) as oracle:
        found = nearest.line(oracle, x, torch.tensor([0, 0, 0]), there)
    assert found.shape == x.shape
    assert torch.allclose(found[:2], torch.full((2, 3, 3, 3), 0.5), atol=2e-4)
    assert (losses.margin(model(found[:2]), torch.tensor([0, 0])) > 0).all()
    assert torch.equal(found[2], there[2]), "it is right there, so there is no line to a boundary"
