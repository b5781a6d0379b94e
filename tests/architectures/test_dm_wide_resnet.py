import pytest
import torch

from robustctl.architectures.dm_wide_resnet import build
from robustctl.errors import RequestError


@pytest.mark.parametrize(
    ("classes", "depth", "width", "parameters", "keys"),
    [
        (10, 28, 10, 36_479_194, 155),
        (10, 34, 20, 184_531_674, 191),
        (10, 70, 16, 266_796_506, 407),
        (10, 82, 8, 79_125_466, 479),
        (10, 94, 16, 365_915_610, 551),
        (100, 28, 10, 36_536_884, 155),
        (100, 70, 16, 266_888_756, 407),
    ],
)
def test_number_of_parameters_and_names_is_the_published_one(
    classes: int, depth: int, width: int, parameters: int, keys: int
) -> None:
    with torch.device("meta"):
        net = build(classes, (3, 32, 32), depth, width)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == keys


def test_names_are_those_of_deepmind() -> None:
    names = list(build(10, (3, 32, 32), depth=10, width=1).state_dict())
    assert names[0] == "init_conv.weight"
    assert names[-1] == "logits.bias"
    assert "layer.1.block.0.shortcut.weight" in names


def test_depth_and_activation_are_checked() -> None:
    with pytest.raises(RequestError, match="depth 27 is not 6 k"):
        build(10, (3, 32, 32), depth=27)
    with pytest.raises(RequestError, match="activation 'swish' is none of relu, silu"):
        build(10, (3, 32, 32), depth=10, width=1, activation="swish")
