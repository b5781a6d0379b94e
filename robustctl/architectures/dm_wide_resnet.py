"""The wide residual network of Gowal et al. (arXiv:2010.03593) and Rebuffi et al. (arXiv:2103.01946), their names.

It has as many parameters as ``wide-resnet`` but other names, another padding and mostly another activation: strided
convolutions pad right and below only, as TensorFlow's "SAME" does. Its published files hold no normalisation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.errors import RequestError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}  # Swish is SiLU
Layer = Callable[[int], nn.Module]
"""A layer for so many channels; ``mean-sparse`` puts one of its own before each activation and after each sum."""


class SqueezeExcitation(nn.Module):
    """Weighs each channel by what its mean over the image says (Hu et al., arXiv:1709.01507)."""

    def __init__(self, planes: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(planes, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        weighed: Tensor = x * weights
        return weighed


class Block(nn.Module):
    """Pre-activation block. Where the width changes, shortcut and branch both start from the activated input.

    With ``squeeze`` the branch ends in a squeeze-and-excitation through that share of its channels.
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        stride: int,
        activation: type[nn.Module],
        sparse: Layer = nn.Identity,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_planes)
        self.meansparse_0 = sparse(in_planes)
        self.conv_0 = nn.Conv2d(in_planes, planes, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(planes)
        self.meansparse_1 = sparse(planes)
        self.conv_1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.se = SqueezeExcitation(planes, round(squeeze * planes)) if squeeze else nn.Identity()
        self.meansparse_2 = sparse(planes)
        self.shortcut = None if in_planes == planes else nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)
        self.activation = activation()
        self.padding = same_padding(stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(self.meansparse_0(self.batchnorm_0(x)))
        out = self.conv_0(F.pad(activated, self.padding))
        out = self.se(self.conv_1(self.activation(self.meansparse_1(self.batchnorm_1(out)))))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(activated)
        total: Tensor = self.meansparse_2(torch.add(shortcut, out))
        return total


def same_padding(stride: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of a 3x3 convolution on an even size, as TensorFlow's "SAME" pads."""
    return (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)


class Group(nn.Module):
    """One stage; the first of its blocks changes stride and width."""

    def __init__(
        self,
        n_blocks: int,
        in_planes: int,
        planes: int,
        stride: int,
        activation: type[nn.Module],
        sparse: Layer,
        squeeze: float,
    ) -> None:
        super().__init__()
        first = Block(in_planes, planes, stride, activation, sparse, squeeze)
        others = [Block(planes, planes, 1, activation, sparse, squeeze) for _ in range(n_blocks - 1)]
        self.block = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DMWideResNet(nn.Module):
    """Stem, three stages of strides 1, 2, 2, final norm, pooling and a linear head.

    Args:
        stem: channels of the stem. depths, widths: blocks and channels of each stage.
    """

    def __init__(
        self,
        n_classes: int,
        channels: int,
        stem: int,
        depths: Sequence[int],
        widths: Sequence[int],
        activation: type[nn.Module],
        sparse: Layer = nn.Identity,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        stages = zip(depths, (stem, *widths[:-1]), widths, (1, 2, 2), strict=True)
        self.layer = nn.Sequential(*[Group(*stage, activation, sparse, squeeze) for stage in stages])
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.meansparse_end = sparse(widths[-1])
        self.activation = activation()
        self.logits = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.meansparse_end(self.batchnorm(self.layer(self.init_conv(x)))))
        logits: Tensor = self.logits(out.mean(dim=(2, 3)))
        return logits


def build(
    n_classes: int, input_shape: tuple[int, int, int], depth: int = 28, width: int = 10, activation: str = "silu"
) -> nn.Module:
    """A DeepMind WRN-depth-width.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); the published ones are for 32x32.
        depth: 6 k + 4 for a whole k >= 1.
        width: widening factor >= 1.
        activation: ``silu`` (Swish in the papers) or ``relu``.

    Raises:
        RequestError: a depth that is not 6 k + 4, or an unknown activation.
    """
    return checked(n_classes, input_shape, depth, width, activation, nn.Identity)


def checked(
    n_classes: int, input_shape: tuple[int, int, int], depth: int, width: int, activation: str, sparse: Layer
) -> DMWideResNet:
    """Build as ``build`` does, with a layer before each activation; raises as ``build`` does."""
    if depth < 10 or (depth - 4) % 6:
        raise RequestError(f"dm-wide-resnet: depth {depth} is not 6 k + 4 (10, 16, 22, 28, 34, ...)")
    if activation not in ACTIVATIONS:
        raise RequestError(f"dm-wide-resnet: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    n_blocks, widths = (depth - 4) // 6, (16 * width, 32 * width, 64 * width)
    return DMWideResNet(n_classes, input_shape[0], 16, (n_blocks,) * 3, widths, ACTIVATIONS[activation], sparse)
