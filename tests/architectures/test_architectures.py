"""Of ``robustctl/architectures/__init__.py``, and of every family found there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robustctl import checkpoint, data, discovery
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec, Normalization

SMALL = {"wide-resnet": {"depth": 10, "width": 1}, "dm-wide-resnet": {"depth": 10, "width": 1}}
# The others build what an optional package has under a name; the contract tests in tests/registry try them.
FAMILIES = [name for name in discovery.names("robustctl.architectures") if name not in ("timm", "torchvision")]


def _spec(name: str, **changes: object) -> ModelSpec:
    architecture = Architecture(name=name, args=SMALL.get(name, {}))
    values = {"architecture": architecture, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10"}
    return ModelSpec.model_validate(values | changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds_a_classifier_of_images(name: str) -> None:
    model = build(_spec(name, n_classes=7)).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_mixes_images_of_a_batch_in_eval_mode(name: str) -> None:
    model = build(_spec(name)).eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_normalisation_is_inside_the_model_and_not_in_its_weights() -> None:
    normalization = Normalization(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    plain, normalised = build(_spec("kw-small")), build(_spec("kw-small", normalization=normalization))
    checkpoint.load_weights(normalised, plain.net.state_dict(), "plain")
    x = torch.rand(2, 3, 32, 32)
    by_hand = torch.stack([(x[:, 0] - 0.1) / 0.5, (x[:, 1] - 0.2) / 0.25, (x[:, 2] - 0.3) / 2.0], dim=1)
    torch.testing.assert_close(normalised(x), plain(by_hand))


def test_an_unknown_architecture_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(RequestError, match=r"unknown architecture 'wide-resent'.*Did you mean 'wide-resnet'"):
        build(_spec("wide-resent"))


def test_an_unknown_argument_is_answered_with_the_arguments() -> None:
    architecture = Architecture(name="wide-resnet", args={"deepth": 10})
    with pytest.raises(RequestError, match=r"deepth.*Its arguments: depth, width, sub_block1\."):
        build(_spec("kw-small", architecture=architecture))


def test_published_wide_resnet_loads_strictly_and_classifies(shared: Path) -> None:
    model = build(_spec("wide-resnet"))
    path = shared / "models" / "cifar10-wrn10-1-linf.safetensors"
    checkpoint.load_weights(model, load_file(path), str(path))
    test = data.load(str(shared / "data" / "cifar10-jpeg"), "test", 200)
    assert _correct(model.eval(), test) / 200 == pytest.approx(0.555, abs=0.006)  # its README: 55.5


def test_published_kw_small_loads_strictly_and_classifies(shared: Path) -> None:
    model = build(_spec("kw-small", input_shape=(1, 28, 28), dataset="mnist"))
    path = shared / "models" / "fast_mnist_pgd.pth"
    checkpoint.load_weights(model, torch.load(path, map_location="cpu", weights_only=True), str(path))
    test = data.load(str(shared / "data" / "mnist-part"), "test")
    assert _correct(model.eval(), test) / len(test) > 0.98  # its README: 98.99 on all of MNIST's test images


@torch.no_grad()
def _correct(model: torch.nn.Module, test: data.ImageData) -> int:
    return int((model(test.images(range(len(test)))).argmax(1) == test.y).sum())
