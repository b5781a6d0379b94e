"""On a network of two pixels the broken points can be counted by looking everywhere; the attacks find exactly those."""

import pytest
import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.evaluation.families import run_family
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.evaluation.row_scheduler import FamilyRun
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Norm, Threat

EPS: dict[Norm, float] = {"linf": 0.08, "l2": 0.1, "l1": 0.13}
COUNTS: dict[Norm, int] = {"linf": 18, "l2": 19, "l1": 20}
GRID = 161


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(3 * torch.randn(parameter.shape, generator=generator))
        centres = torch.rand(24, 2, generator=generator)  # the kinks lie among the images
        model[1].bias.copy_(-(model[1].weight * centres).sum(1))  # type: ignore[union-attr, operator, arg-type]
    return model


def points(model: nn.Module) -> ImageData:
    x = torch.rand(60, 1, 1, 2, generator=torch.Generator().manual_seed(3))
    return ImageData(x, model(x).argmax(1), 5, "made", "test", torch.arange(60))


def largest_margins(model: nn.Module, data: ImageData, norm: Norm) -> Tensor:
    """The largest margin (n,) on a fine grid of each ball cut with the box."""
    side = torch.linspace(-1, 1, GRID)
    offsets = EPS[norm] * torch.cartesian_prod(side, side)
    length = {"linf": offsets.abs().amax(1), "l2": offsets.norm(dim=1), "l1": offsets.abs().sum(1)}[norm]
    offsets = offsets[length <= EPS[norm] * (1 + 1e-6)]
    found = []
    with torch.no_grad():
        for x, y in zip(data.x.flatten(1), data.y, strict=True):
            inside = (x + offsets).clamp(0, 1).view(-1, 1, 1, 2)
            found.append(losses.margin(model(inside), y.expand(len(inside))).max())
    return torch.stack(found)


@pytest.mark.parametrize("norm", NORMS)
def test_the_standard_protocol_breaks_exactly_the_points_that_can_be_broken(norm: Norm) -> None:
    model = network()
    data = points(model)
    margins = largest_margins(model, data, norm)
    truth = set((margins > 0).nonzero().flatten().tolist())
    assert (margins.abs() > 0.02).all(), "no point is decided between the points of the grid"
    threat = Threat(norm, EPS[norm], "")
    broken: set[int] = set()
    with Oracle(model) as oracle:
        for family in PROTOCOLS["standard"][norm]:
            left = [position for position in range(len(data)) if position not in broken]
            for batch in run_family(FamilyRun(oracle, data, threat, family, 0, 512), left):
                x, y = data.images(batch.positions), data.y[batch.positions]
                verdicts = referee.judge(model, x, y, batch.x_adv, threat)
                assert verdicts.inside.all()
                broken |= {batch.positions[i] for i in verdicts.broken.nonzero().flatten().tolist()}
    assert broken == truth
    assert len(broken) == COUNTS[norm]
