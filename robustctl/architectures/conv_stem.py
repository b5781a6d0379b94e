"""ConvNeXts and ViTs of timm with a convolutional stem (Singh, Croce, Hein, NeurIPS 2023, arXiv:2303.01870).

The parameters have the names of the authors' published files: timm's names, and ``stem.stem.*`` or
``patch_embed.proj.stem.*`` for the stem. Needs the package timm.
"""

from typing import Any

from torch import nn

from robustctl.architectures import timm
from robustctl.errors import RequestError

STEMS: dict[str, tuple[tuple[int, int], ...]] = {
    "convnext_tiny": ((48, 2), (96, 2)),
    "convnext_small": ((48, 2), (96, 2)),
    "convnext_base": ((64, 2), (96, 2), (128, 1)),
    "convnext_large": ((96, 2), (144, 2), (192, 1)),
    "deit_small_patch16_224": ((48, 2), (96, 2), (192, 2), (384, 2)),
    "vit_base_patch16_224": ((48, 2), (96, 2), (192, 2), (384, 2)),
}
"""(channels, stride) of each 3x3 convolution of the stem, for each of timm's models that the paper changes."""

LIBRARY, LEAST_VERSION = "timm", "1.0.21"
"""Imported before a network is built on the meta device; an older one asks for values there while it builds."""


class Stem(nn.Module):
    """3x3 convolutions, each with a norm over channels and a GELU, and a 1x1 convolution if ``embedding`` is given.

    Args:
        channels: of the images.
        layers: (channels, stride) of each convolution.
        embedding: channels of what a ViT takes, or None for a ConvNeXt.
    """

    def __init__(self, channels: int, layers: tuple[tuple[int, int], ...], embedding: int | None) -> None:
        super().__init__()
        from timm.layers.norm import LayerNorm2d

        parts: list[nn.Module] = []
        for planes, stride in layers:
            parts += [nn.Conv2d(channels, planes, 3, stride, padding=1), LayerNorm2d(planes, eps=1e-6), nn.GELU()]
            channels = planes
        if embedding is not None:
            parts.append(nn.Conv2d(channels, embedding, 1))
        self.stem = nn.Sequential(*parts)

    def forward(self, x: Any) -> Any:
        """Features (n, planes, h / s, w / s) of images (n, channels, h, w); s is the product of the strides."""
        return self.stem(x)


def build(n_classes: int, input_shape: tuple[int, int, int], model: str = "convnext_tiny") -> nn.Module:
    """Build timm's ``model`` with the stem that the paper gives to it, and random weights.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); ViTs take 224 x 224 alone.
        model: one of the paper's: convnext_tiny, _small, _base, _large, deit_small_patch16_224, vit_base_patch16_224.

    Raises:
        RequestError: another model, or timm is missing.
    """
    if model not in STEMS:
        raise RequestError(f"conv-stem: model {model!r} is none of {', '.join(STEMS)}")
    net: Any = timm.build(n_classes, input_shape, model)
    if model.startswith("convnext"):
        net.stem = Stem(input_shape[0], STEMS[model], None)
    else:
        net.patch_embed.proj = Stem(input_shape[0], STEMS[model], net.embed_dim)
    whole: nn.Module = net
    return whole
