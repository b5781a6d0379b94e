import pytest
import torch

from robustctl.architectures.ra_resnet import build
from robustctl.errors import RequestError

SMALL = {"stem": 8, "depths": "2-1-1-1", "widths": "16-32-48-64", "groups": "2-4-4-8"}


@pytest.mark.parametrize(
    ("args", "parameters"),
    [
        ({}, 26_143_228),
        ({"depths": "7-11-18-1", "widths": "336-672-1328-2624", "groups": "42-84-166-328"}, 45_901_928),
        ({"depths": "7-11-18-1", "widths": "512-1024-2016-4032", "groups": "64-128-252-504"}, 104_065_776),
    ],
)
def test_number_of_parameters_is_the_published_one_in_millions(args: dict[str, str], parameters: int) -> None:
    with torch.device("meta"):
        net = build(1000, (3, 224, 224), **args)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_each_stage_halves_the_resolution_and_names_are_the_authors() -> None:
    net = build(7, (3, 64, 64), **SMALL)
    x = net.stem(torch.rand(1, 3, 64, 64))
    sizes = [x.shape[-1]]
    for stage in net.stages:
        x = stage(x)
        sizes.append(x.shape[-1])
    assert sizes == [32, 16, 8, 4, 2] and x.shape[1] == 64
    names = net.state_dict()
    assert names["stem.stem.stem.0.weight"].shape == (8, 3, 7, 7)
    assert names["stages.stage1.stage1-block0.F.b.0.weight"].shape == (4, 2, 3, 3)
    assert names["stages.stage1.stage1-block0.F.se.fc1.weight"].shape == (2, 4, 1, 1)
    assert "stages.stage1.stage1-block1.proj.0.weight" not in names
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"depths": "1-1-1"}, "depths '1-1-1' is not 4 whole numbers"),
        ({"widths": "16-32-48-a"}, "widths"),
        ({"groups": "3-4-4-8", "widths": "16-32-48-64"}, "a group of 3 channels does not divide 16 / 4"),
    ],
)
def test_what_cannot_be_built_is_refused(args: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        build(10, (3, 224, 224), **args)
