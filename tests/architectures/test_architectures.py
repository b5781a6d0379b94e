"""Of ``robustctl/architectures/__init__.py``, and of every family found there."""

import os
import resource
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from robustctl import checkpoint, data, discovery
from robustctl.architectures import build, empty_copy
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


HUGE = 10**9


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("os.system", {"command": "touch trace"}, "unknown architecture 'os.system'"),
        ("../../evil", {}, "unknown architecture"),
        ("wide-resnet", {"width": -1}, "width is -1; it must be from 1 to 100000"),
        ("wide-resnet", {"depth": 6 * HUGE + 4}, "depth is 6000000004; it must be from 1 to 1000"),
        ("wide-resnet", {"depth": 28, "width": 2000}, r"billion parameters, more than 5"),
        ("dm-wide-resnet", {"width": 0}, "width is 0"),
        ("resnet", {"depth": 50, "width": float("nan")}, "width is nan"),
        ("kw-small", {"hidden": 100_000, "width": 100_000}, "billion parameters"),
        ("kw-small", {"hidden": 1.5}, "kw-small"),
        ("clip", {"patch_size": 0}, "patch_size is 0"),
        ("clip", {"heads": 5}, "architecture clip cannot be built with {'heads': 5}"),
        ("clip", {"activation": "none"}, "architecture clip cannot be built with {'activation': 'none'}"),
        ("clip", {"image_size": 100_000, "patch_size": 1}, "billion parameters"),
        ("clip", {"layers": HUGE}, "layers is 1000000000"),
    ],
)
def test_a_spec_that_no_network_has_is_refused_before_it_takes_memory(
    name: str, args: dict[str, int], message: str
) -> None:
    if name == "clip":
        pytest.importorskip("transformers", reason="CLIP is an extra")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RequestError, match=message):
        build(_spec("kw-small", architecture=Architecture(name=name, args=args)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    "changes", [{"n_classes": HUGE}, {"input_shape": (HUGE, 32, 32)}, {"input_shape": (3, HUGE, HUGE)}], ids=str
)
def test_a_shape_that_no_network_has_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="architecture kw-small"):
        build(_spec("kw-small", **changes))


def test_weights_that_do_not_fit_are_refused_before_the_network_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_tensors(build(_spec("wide-resnet")).net.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(checkpoint, "build", lambda spec: pytest.fail("memory was taken"))
    large = _spec("wide-resnet", architecture=Architecture(name="wide-resnet", args={"depth": 10, "width": 100}))
    with pytest.raises(RequestError, match="do not fit the architecture"):
        checkpoint.load_from(large, tmp_path / "w.safetensors")


def test_the_empty_copy_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert empty_copy(_spec("wide-resnet")) is not None
    assert torch.equal(torch.get_rng_state(), state)


def test_of_torchvision_only_classifiers_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """``get_model("fcn_resnet50", weights=None)`` would fetch the weights of its backbone."""
    models = ModuleType("torchvision.models")
    known = {"vgg16_bn": models, "fcn_resnet50": None}
    models.list_models = lambda module=None: [name for name, home in known.items() if home is module]
    models.get_model = lambda name, weights, num_classes: torch.nn.Linear(3, num_classes)
    package = ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    build(_spec("kw-small", architecture=Architecture(name="torchvision/vgg16_bn")))
    for name in ("fcn_resnet50", "raft_large", "VGG16_BN"):
        with pytest.raises(RequestError, match=f"torchvision has no classifier '{name}'"):
            build(_spec("kw-small", architecture=Architecture(name=f"torchvision/{name}")))


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


def test_a_library_that_is_too_old_is_told_with_the_version_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(timm, "create_model", fails)
    monkeypatch.setattr(timm, "__version__", "1.0.3")
    spec = ModelSpec(
        schema="robustctl.model/1",
        architecture=Architecture(name="conv-stem"),
        input_shape=(3, 32, 32),
        n_classes=10,
        dataset="cifar10",
    )
    with pytest.raises(
        RequestError, match=r"conv-stem needs timm 1\.0\.21 or newer, not 1\.0\.3: pip install 'timm>=1"
    ):
        empty_copy(spec)


def test_a_library_is_imported_with_real_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constants_of_a_library.py").write_text("import torch\nONE = torch.ones(1)\n", encoding="utf-8")
    own = Path(os.environ["ROBUSTCTL_HOME"]) / "architectures"
    own.mkdir(parents=True)
    code = [
        "from torch import nn",
        'LIBRARY = "constants_of_a_library"',
        "def build(n_classes, input_shape):",
        "    import constants_of_a_library",
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, n_classes))",
    ]
    (own / "with_a_library.py").write_text("\n".join(code), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModelSpec(
        schema="robustctl.model/1",
        architecture=Architecture(name="with-a-library"),
        input_shape=(1, 4, 4),
        n_classes=3,
        dataset="digits",
    )
    net = empty_copy(spec)
    assert net is not None and next(net.parameters()).is_meta
    import constants_of_a_library  # type: ignore[import-not-found]

    assert not constants_of_a_library.ONE.is_meta
