import pytest
import torch

from robustctl.architectures.dm_wide_resnet import Block, SqueezeExcitation
from robustctl.architectures.ra_wide_resnet import build
from robustctl.errors import RequestError

SMALL = {"stem": 8, "depths": "2-1-3", "widths": "8-12-16"}


def test_number_of_parameters_is_the_published_one() -> None:
    with torch.device("meta"):
        net = build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in net.parameters()) == 267_240_802


def test_stages_have_their_own_depths_and_widths() -> None:
    net = build(5, (1, 16, 16), **SMALL)
    names = net.state_dict()
    assert [len(group.block) for group in net.layer] == [2, 1, 3]
    assert names["layer.2.block.2.conv_1.weight"].shape == (16, 16, 3, 3)
    assert names["layer.0.block.1.se.fc1.weight"].shape == (2, 8, 1, 1)
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, 5)


def test_squeeze_and_excitation_weighs_channels_by_their_means() -> None:
    part, x = SqueezeExcitation(4, 2).double(), torch.randn(3, 4, 5, 6, dtype=torch.float64)
    weigh = part.fc2.weight[:, :, 0, 0] @ torch.relu(
        part.fc1.weight[:, :, 0, 0] @ x.mean((2, 3)).T + part.fc1.bias[:, None]
    )
    weights = torch.sigmoid(weigh + part.fc2.bias[:, None]).T
    torch.testing.assert_close(part(x), x * weights[:, :, None, None])


def test_the_branch_alone_is_weighed() -> None:
    block = Block(4, 4, 1, torch.nn.SiLU, squeeze=0.5).double().eval()
    torch.nn.init.constant_(block.se.fc2.bias, -1000.0)  # all weights are 0
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("text", ["2-1", "2-1-x", "2-0-1", "2--1", "", "2-1-1000000"])
def test_stages_are_three_whole_numbers(text: str) -> None:
    with pytest.raises(RequestError, match="is not 3 whole numbers"):
        build(10, (3, 32, 32), depths=text)
