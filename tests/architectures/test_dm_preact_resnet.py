import pytest
import torch

from robustctl.architectures.dm_preact_resnet import build
from robustctl.errors import RequestError


def test_number_of_parameters_and_names_is_the_published_one() -> None:
    with torch.device("meta"):
        net = build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in net.parameters()) == 12_548_426
    assert len(net.state_dict()) == 107


def test_depth_is_checked() -> None:
    with pytest.raises(RequestError, match="depth 50 is none of 18, 34"):
        build(10, (3, 32, 32), depth=50)
