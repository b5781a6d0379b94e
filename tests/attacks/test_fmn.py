"""FMN finds the nearest boundary of a linear classifier, and stays inside ball and box."""

import pytest
import torch
from torch import nn

from robustctl import geometry, losses
from robustctl.attacks.fmn import CHANGE, _anneal, _next_radius, fmn
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat

DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def exact_distance(model: nn.Module, x: torch.Tensor, y: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Distance (n,) to the nearest boundary of a linear classifier, the box left aside."""
    weight, scores = model[1].weight, model(x)  # type: ignore[index]
    gaps = scores.gather(1, y[:, None]) - scores
    slopes = torch.linalg.vector_norm(weight[None] - weight[y][:, None], DUAL[norm], dim=2)
    return torch.where(torch.arange(scores.shape[1]) == y[:, None], torch.inf, gaps / slopes).amin(1)


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_breaks_points_little_beyond_their_exact_distance_and_none_before(
    linear_model: nn.Module, norm: Norm
) -> None:
    x = 0.3 + 0.4 * torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = linear_model(x).argmax(1)
        distance = exact_distance(linear_model, x, y, norm)
    near = (distance > 0.02) & (distance < 0.3)  # a step is no longer than the distance, and the box does not cut
    assert near.sum() >= 4
    for i in near.nonzero().squeeze(1).tolist():
        image, label = x[i : i + 1], y[i : i + 1]
        for factor, breaks in ((0.98, False), (1.25, True)):
            threat = Threat(norm, factor * float(distance[i]), "")
            with Oracle(linear_model) as oracle:
                x_adv = fmn(oracle, image, label, threat, steps=100)
                assert (float(losses.margin(oracle.exact(x_adv), label)) > 0) == breaks
            assert (geometry.norm(x_adv.double() - image.double(), norm) <= threat.eps).all()
            assert ((x_adv >= 0) & (x_adv <= 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_comes_down_from_a_far_start_to_the_nearest_boundary(linear_model: nn.Module, norm: Norm) -> None:
    x = 0.3 + 0.4 * torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = linear_model(x).argmax(1)
        distance = exact_distance(linear_model, x, y, norm)
    near = (distance > 0.02) & (distance < 0.3)
    x, y, distance = x[near], y[near], distance[near]
    weight = linear_model[1].weight.detach()  # type: ignore[index]
    with torch.no_grad():
        other = linear_model(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    start = ((weight[other] - weight[y]) > 0).float().view_as(x)  # the corner of the box that is worst for the label
    with Oracle(linear_model) as oracle:
        x_adv = fmn(oracle, x, y, Threat(norm, 20.0, ""), steps=60, start=start, change=(0.2, 0.005))
        assert (losses.margin(oracle.exact(x_adv), y) > 0).all()
    far = geometry.norm(start - x, norm)
    found = geometry.norm(x_adv - x, norm)
    assert (found < far / 2).all() and (found < 1.1 * distance).all()


def test_fmn_gives_the_image_itself_where_no_point_is_misclassified() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with Oracle(constant) as oracle:
        x_adv = fmn(oracle, x, torch.zeros(2, dtype=torch.long), Threat.of("l2", "0.5"), steps=5)
    assert torch.equal(x_adv, x)


def test_steps_fall_from_the_first_size_to_the_last_along_half_a_cosine() -> None:
    assert [_anneal((8.0, 2.0), step, 4) for step in (0, 1, 2, 4)] == pytest.approx([8.0, 5 + 3 * 0.5**0.5, 5.0, 2.0])


def test_the_radius_shrinks_where_a_point_is_found_and_grows_elsewhere() -> None:
    radius, distance, found = (
        torch.tensor([2.0, 2.0, 2.0, 9.0]),
        torch.ones(4),
        torch.tensor([1.7, 1.9, torch.inf, 1.7]),
    )
    margins, slope = torch.tensor([0.5, -0.5, -0.5, 0.5]), torch.full((4,), 0.25)
    # Found: 10 % smaller, and no larger than what is known. Not found: 10 % larger; if none is known, the distance to
    # the boundary of the linearised margin, 1 + 0.5 / 0.25.
    expected = [1.7, 2.2, 3.3, 1.7]
    assert _next_radius(radius, distance, found, margins, slope, 0.1).tolist() == pytest.approx(expected)
    shrinking = _next_radius(radius[:1], distance[:1], torch.tensor([5.0]), margins[:1], slope[:1], 0.1)
    assert shrinking.tolist() == pytest.approx([1.8])


def test_the_ball_changes_by_the_paper_s_shares() -> None:
    assert CHANGE == (0.05, 0.001), "gamma of arXiv:2102.12827, Sec. 2.3"
