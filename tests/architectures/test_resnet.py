import pytest
import torch

from robustctl.architectures.resnet import build
from robustctl.errors import RequestError


@pytest.mark.parametrize(
    ("classes", "arguments", "parameters", "keys"),
    [
        (10, {"depth": 18}, 11_173_962, 122),
        (10, {"depth": 50}, 23_520_842, 320),
        (1000, {"depth": 18, "layout": "torchvision"}, 11_689_512, 122),
        (1000, {"depth": 50, "layout": "torchvision"}, 25_557_032, 320),
        (1000, {"depth": 50, "width": 2, "layout": "torchvision"}, 68_883_240, 320),
    ],
)
def test_number_of_parameters_and_names_is_the_published_one(
    classes: int, arguments: dict[str, object], parameters: int, keys: int
) -> None:
    with torch.device("meta"):
        net = build(classes, (3, 224, 224), **arguments)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == keys


def test_the_layouts_have_the_names_of_their_zoos() -> None:
    small, large = (set(build(10, (3, 32, 32), layout=layout).state_dict()) for layout in ("cifar", "torchvision"))
    assert {"linear.weight", "layer2.0.shortcut.1.running_var"} <= small
    assert {"fc.weight", "layer2.0.downsample.1.running_var"} <= large


def test_images_of_imagenet_size_give_logits() -> None:
    net = build(1000, (3, 224, 224), layout="torchvision").eval()
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, "depth 20 is none of 18, 34, 50"),
        ({"layout": "timm"}, "layout 'timm' is none of cifar, torchvision"),
        ({"depth": 18, "width": 2}, "width 2 needs bottlenecks"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build(10, (3, 32, 32), **arguments)
