import pytest
import torch
from torch import nn

from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.spec import Architecture, ModelSpec


def image_data(x, y, n_classes=10, source="made", split="test") -> ImageData:
    return ImageData(x, y, n_classes, source, split, torch.arange(len(y)))


@pytest.fixture
def linear_spec():
    return ModelSpec(architecture=Architecture(name="kw-small"), input_shape=(1, 6, 6), n_classes=5, dataset="made")


@pytest.fixture
def linear():
    """A linear classifier of 1x6x6 images into 5 classes."""
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), None).eval()


@pytest.fixture
def linear_data(linear):
    """Forty images, nine of ten labelled as the linear classifier sees them."""
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = linear(x).argmax(1)
    y[::10] = (y[::10] + 1) % 5
    return image_data(x, y, 5)
