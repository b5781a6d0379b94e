import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustctl import data
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.workflows.own_model import left_alone, wrap


@pytest.fixture
def images() -> ImageData:
    return data.load("digits", "test", 4)


def test_whatever_happens_inside_the_module_is_as_before_afterwards() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3))
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net(torch.rand(2, 1, 8, 8)).sum().backward()
    objects = [id(tensor) for tensor in [*net.parameters(), *net.buffers()]]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradients = [one.grad.clone() if one.grad is not None else None for one in net.parameters()]
    modes, trainable = [part.training for part in net.modules()], [one.requires_grad for one in net.parameters()]
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(ValueError, match="stop"), left_alone(net):
        assert not any(part.training for part in net.modules())
        net.train()(torch.rand(2, 1, 8, 8)).sum().backward()
        with torch.no_grad():
            net[4].weight.add_(1)
        net.requires_grad_(True).zero_grad()
        random.random(), np.random.rand()
        raise ValueError("stop")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [id(tensor) for tensor in [*net.parameters(), *net.buffers()]] == objects
    assert [part.training for part in net.modules()] == modes
    assert [one.requires_grad for one in net.parameters()] == trainable
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
    assert random.getstate() == drawn[0] and np.random.get_state()[1].tolist() == drawn[1]
    assert torch.equal(torch.get_rng_state(), drawn[2])


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x.flatten(1)[:, :10])


def test_an_output_with_logits_is_opened(images: ImageData) -> None:
    model, spec = wrap(Returns(lambda x: SimpleNamespace(logits=x)), images, name="Returns")
    x = images.images(range(3))
    assert torch.equal(model(x), x.flatten(1)[:, :10])
    assert (spec.n_classes, spec.input_shape, spec.architecture.name) == (10, (1, 8, 8), "Returns")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x, x), "returns tuple"),
        (lambda x: x[:, :1], r"returns \[1, 1\]"),
        (lambda x: x[0], r"returns \[10\]"),
        (lambda x: x @ torch.zeros(3, 3), "cannot take an image .* RuntimeError"),
    ],
)
def test_a_module_that_returns_no_logits_is_refused(images: ImageData, make: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        wrap(Returns(make), images, name="Returns")
