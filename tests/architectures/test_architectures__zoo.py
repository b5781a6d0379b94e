"""Random weights of the public packages load strictly into ours and give the same logits.

Needs robustbench, torchvision and timm (none of their other dependencies): ``python -m pytest -m zoo``.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.models import entry as entries
from robustctl.models.find import BUNDLED
from robustctl.models.layouts import from_open_clip, renamed
from robustctl.spec import ModelSpec

pytestmark = pytest.mark.zoo


def zoo(module: str) -> types.ModuleType:
    """A file of robustbench's architectures, without its package's own imports (downloaders, other zoos)."""
    if "robustbench" not in sys.modules:
        found = importlib.util.find_spec("robustbench")
        if found is None or not found.submodule_search_locations:
            pytest.skip("the package robustbench is not installed")
        root = found.submodule_search_locations[0]
        for tail in ("", "/model_zoo", "/model_zoo/architectures"):
            name = f"robustbench{tail}".replace("/", ".")
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [root + tail]
    return importlib.import_module(f"robustbench.model_zoo.architectures.{module}")


def torchvision() -> types.ModuleType:
    """torchvision's models, also where its compiled operators do not fit the installed torch."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("the package torchvision is not installed")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        sys.modules["torchvision._meta_registrations"] = types.ModuleType("operators that no classifier needs")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            if name != "torchvision._meta_registrations":
                del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        return importlib.import_module("torchvision.models")


KEPT: list[torch.library.Library] = []

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
DM = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2471, 0.2435, 0.2616]}

# theirs, our architecture, its arguments, normalisation, input shape, classes
CASES: dict[str, tuple[Callable[[], nn.Module], str, dict[str, object], dict[str, object] | None, tuple[int, ...]]] = {
    "wrn-10-2": (
        lambda: zoo("wide_resnet").WideResNet(depth=10, widen_factor=2),
        "wide-resnet",
        {"depth": 10, "width": 2},
        None,
        CIFAR,
    ),
    "wrn-28-10 with sub_block1": (
        lambda: zoo("wide_resnet").WideResNet(depth=28, widen_factor=10, sub_block1=True),
        "wide-resnet",
        {"depth": 28, "width": 10, "sub_block1": True},
        None,
        CIFAR,
    ),
    "dm-wrn-16-4 silu": (
        lambda: zoo("dm_wide_resnet").DMWideResNet(10, 16, 4, nn.SiLU),
        "dm-wide-resnet",
        {"depth": 16, "width": 4},
        DM,
        CIFAR,
    ),
    "dm-wrn-28-10 swish": (
        lambda: zoo("dm_wide_resnet").DMWideResNet(10, 28, 10, zoo("dm_wide_resnet").Swish),
        "dm-wide-resnet",
        {"depth": 28, "width": 10},
        DM,
        CIFAR,
    ),
    "dm-wrn-10-1 relu": (
        lambda: zoo("dm_wide_resnet").DMWideResNet(10, 10, 1, nn.ReLU),
        "dm-wide-resnet",
        {"depth": 10, "width": 1, "activation": "relu"},
        DM,
        CIFAR,
    ),
    "dm-preact-18": (
        lambda: zoo("dm_wide_resnet").DMPreActResNet(10, 18, 0, zoo("dm_wide_resnet").Swish),
        "dm-preact-resnet",
        {},
        DM,
        CIFAR,
    ),
    "ra-wrn": (
        lambda: zoo("robustarch_wide_resnet").NormalizedWideResNet(
            **DM,
            stem_width=8,
            depth=[2, 3, 1],
            stage_width=[12, 24, 40],
            groups=[1, 1, 1],
            activation_fn=nn.SiLU,
            se_ratio=0.25,
            se_activation=nn.ReLU,
            se_order=2,
        ),
        "ra-wide-resnet",
        {"stem": 8, "depths": "2-3-1", "widths": "12-24-40"},
        DM,
        CIFAR,
    ),
    "MeanSparse Ra-WRN-70-16": (
        lambda: zoo("sparsified_model").get_sparse_model("ra_wrn_70_16", "cifar-10-Linf"),
        "mean-sparse",
        {"model": "ra-wide-resnet"},
        DM,
        CIFAR,
    ),
    "preact-18 of Wong": (
        lambda: zoo("resnet").PreActResNet(zoo("resnet").PreActBlock, [2, 2, 2, 2]),
        "preact-resnet18",
        {"bn_before_fc": False, "raw_shortcut": True},
        None,
        CIFAR,
    ),
    "preact-18 of Rice": (
        lambda: zoo("resnet").PreActResNet(zoo("resnet").PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True),
        "preact-resnet18",
        {},
        None,
        CIFAR,
    ),
    "resnet-18": (lambda: zoo("resnet").ResNet18(), "resnet", {"depth": 18}, None, CIFAR),
    "resnet-50": (lambda: zoo("resnet").ResNet50(), "resnet", {"depth": 50}, None, CIFAR),
    "torchvision resnet18": (
        lambda: torchvision().resnet18(),
        "resnet",
        {"depth": 18, "layout": "torchvision"},
        None,
        IMAGENET,
    ),
    "torchvision resnet50": (
        lambda: torchvision().resnet50(),
        "resnet",
        {"depth": 50, "layout": "torchvision"},
        None,
        IMAGENET,
    ),
    "torchvision wide_resnet50_2": (
        lambda: torchvision().wide_resnet50_2(),
        "resnet",
        {"depth": 50, "width": 2, "layout": "torchvision"},
        None,
        IMAGENET,
    ),
    "torchvision by name": (
        lambda: torchvision().mobilenet_v2(),
        "torchvision/mobilenet_v2",
        {},
        None,
        IMAGENET,
    ),
    "timm by name and depth": (
        lambda: timm().create_model("xcit_nano_12_p16_224", depth=2),
        "timm/xcit_nano_12_p16_224",
        {"depth": 2},
        None,
        IMAGENET,
    ),
    "timm by name": (
        lambda: timm().create_model("xcit_small_12_p16_224"),
        "timm/xcit_small_12_p16_224",
        {},
        None,
        IMAGENET,
    ),
}


def timm() -> types.ModuleType:
    torchvision()
    return pytest.importorskip("timm", reason="the package timm is not installed")


def stirred(net: nn.Module) -> nn.Module:
    """The network in eval mode: fresh statistics would hide a wrong order of layers, a threshold of 0 the step."""
    values = {"threshold": (0.3, 0.3), "running_var": (0.8, 1.2), "running_mean": (-0.2, 0.2)}
    for part, buffer in net.named_buffers():
        if part.rpartition(".")[2] in values:
            buffer.uniform_(*values[part.rpartition(".")[2]])
    return net.eval()


@pytest.mark.parametrize("name", CASES)
def test_weights_of_the_zoo_load_strictly_and_give_the_same_logits(name: str) -> None:
    make, architecture, args, normalization, shape = CASES[name]
    torch.manual_seed(0)
    theirs = stirred(make())
    n_classes = 1000 if shape == IMAGENET else 10
    spec = ModelSpec.model_validate(
        {
            "architecture": {"name": architecture, "args": args},
            "normalization": normalization,
            "input_shape": shape,
            "n_classes": n_classes,
            "dataset": "x",
        }
    )
    ours = build(spec).eval()
    checkpoint.load_weights(ours, theirs.state_dict(), name)
    x = torch.rand(2, *shape)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max().clamp(min=1)))


def ra_resnet() -> nn.Module:
    """A small network of the kind of RaResNet-50."""
    theirs = zoo("robustarch_wide_resnet")
    kinds = {"norm_layer": [nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d], "activation_layer": [nn.SiLU] * 3}
    stem = {"stem_type": theirs.Stem, "stem_width": 16, "stem_kernel": 7, "stem_downsample_factor": 2}
    widths = {"stage_widths": [32, 64, 96, 128], "group_widths": [4, 8, 12, 16], "bottleneck_multipliers": [0.25] * 4}
    rest = {"kernel": 3, "strides": [2] * 4, "dilation": 1, "downsample_norm": nn.BatchNorm2d, "depths": [2, 1, 2, 1]}
    rest |= {"dense_ratio": None, "stem_patch_size": None, "se_ratio": 0.25, "se_activation": nn.ReLU}
    made: nn.Module = theirs.ConfigurableModel(**kinds, **stem, **widths, **rest)
    return made


LAYOUTS = {
    "MIMIR Swin-B": (
        lambda: zoo("MIMIR_swin_transformer").build_swin_base(),
        {"name": "timm/swin_base_patch4_window7_224", "args": {"norm_eps": 1e-6}},
    ),
    "MIMIR Swin-L": (
        lambda: zoo("MIMIR_swin_transformer").build_swin_large(),
        {"name": "timm/swin_large_patch4_window7_224", "args": {"norm_eps": 1e-6, "window_size": 14}},
    ),
    "ConvNeXt-T with a stem": (
        lambda: zoo("convstem_models").get_convstem_models("convnext_t_cvst"),
        {"name": "conv-stem", "args": {"model": "convnext_tiny"}},
    ),
    "ConvNeXt-B with a stem": (
        lambda: zoo("convstem_models").get_convstem_models("convnext_b_cvst"),
        {"name": "conv-stem", "args": {"model": "convnext_base"}},
    ),
    "ViT-B with a stem": (
        lambda: zoo("convstem_models").get_convstem_models("vit_b_cvst"),
        {"name": "conv-stem", "args": {"model": "vit_base_patch16_224"}},
    ),
    "ViT-S with a stem": (
        lambda: zoo("convstem_models").get_convstem_models("vit_s_cvst").model,
        {"name": "conv-stem", "args": {"model": "deit_small_patch16_224"}},
    ),
    "RaResNet": (
        ra_resnet,
        {
            "name": "ra-resnet",
            "args": {"stem": 16, "depths": "2-1-2-1", "widths": "32-64-96-128", "groups": "4-8-12-16"},
        },
    ),
    "MeanSparse Swin-L": (
        lambda: zoo("sparsified_model").get_sparse_model("swin-l", "imagenet-Linf").model,
        {"name": "mean-sparse", "args": {"model": "swin_large_patch4_window7_224"}},
    ),
    "MeanSparse ConvNeXt-L": (
        lambda: zoo("sparsified_model").get_sparse_model(timm().create_model("convnext_large"), "imagenet-Linf"),
        {"name": "mean-sparse", "args": {"model": "convnext_large"}},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_of_the_zoos_imagenet_networks_give_the_same_logits(name: str) -> None:
    timm()
    make, architecture = LAYOUTS[name]
    torch.manual_seed(0)
    theirs = stirred(make())
    spec = ModelSpec.model_validate(
        {"architecture": architecture, "input_shape": IMAGENET, "n_classes": 1000, "dataset": "x"}
    )
    ours = build(spec).eval()
    layout = "timm" if "Swin" in name else None
    checkpoint.load_weights(ours, renamed(layout, theirs.state_dict(), ours.net, name), name)
    x = torch.rand(1, *IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_weights_of_open_clip_give_the_logits_of_its_own_zero_shot_classifier() -> None:
    open_clip = pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")
    transformers = pytest.importorskip("transformers", reason="CLIP is an extra")
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
    text = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 100, "context_length": 16}
    theirs = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    halves = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "quick_gelu"}
    ours = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=halves
            | {"hidden_size": 64, "intermediate_size": 256, "image_size": 32, "patch_size": 16, "projection_dim": 16},
            text_config=halves
            | {
                "hidden_size": 32,
                "intermediate_size": 128,
                "vocab_size": 100,
                "max_position_embeddings": 16,
                "bos_token_id": 98,
                "eos_token_id": 99,
                "projection_dim": 16,
            },
            projection_dim=16,
        )
    ).eval()
    ours.load_state_dict(from_open_clip(theirs.state_dict(), "open_clip"), strict=False)
    missing = set(ours.state_dict()) - set(from_open_clip(theirs.state_dict(), "open_clip"))
    assert all(name.endswith("position_ids") for name in missing)
    tokens = torch.tensor([[98, 3, 4, 99], [98, 7, 8, 99]])
    padded = torch.zeros(2, 16, dtype=torch.long)
    padded[:, :4] = tokens
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        images, texts = theirs.encode_image(x, normalize=True), theirs.encode_text(padded, normalize=True)
        expected = theirs.logit_scale.exp() * images @ texts.T
        torch.testing.assert_close(
            ours(input_ids=tokens, pixel_values=x).logits_per_image, expected, rtol=1e-4, atol=1e-4
        )


NAMED = [path for path in sorted((BUNDLED / "entries").glob("*.yaml")) if "/" in entries.read(path).architecture.name]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_an_entry_of_a_named_model_builds_and_has_the_parameters_that_it_states(path: Path) -> None:
    entry = entries.read(path)
    if entry.architecture.name.startswith("timm/"):
        timm()
    torchvision()
    with torch.device("meta"):
        model = build(entry.spec)
    assert entry.parameters == sum(parameter.numel() for parameter in model.net.parameters())
