import pytest
import torch
from torch import nn

from robustctl.architectures.kw_small import build


@pytest.mark.parametrize(
    ("shape", "width", "hidden", "parameters"),
    [((1, 28, 28), 16, 100, 166_406), ((3, 32, 32), 16, 100, 214_918), ((1, 8, 8), 32, 100, 60_086)],
)
def test_shapes_and_number_of_parameters(shape: tuple[int, int, int], width: int, hidden: int, parameters: int) -> None:
    net = build(10, shape, width, hidden)
    assert net(torch.rand(2, *shape)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_names_are_those_of_the_published_files() -> None:
    names = [name for name, _ in build(10, (1, 28, 28)).named_parameters()]
    assert names == [f"{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")]


def test_layers_are_those_of_the_paper() -> None:
    convolutions = [layer for layer in build(10, (1, 28, 28)) if isinstance(layer, nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.padding) for c in convolutions] == [((4, 4), (2, 2), (1, 1))] * 2
