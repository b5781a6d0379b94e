"""The pre-activation ResNet of Rebuffi et al. (arXiv:2103.01946) and Gowal et al. (arXiv:2110.09468), their names.

Its shortcuts are 3x3 convolutions of the raw input, padded as in ``dm-wide-resnet``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.architectures.dm_wide_resnet import ACTIVATIONS, same_padding
from robustctl.errors import RequestError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class Block(nn.Module):
    """Two 3x3 convolutions behind their norms."""

    def __init__(self, in_planes: int, planes: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_planes)
        self.conv_2d_1 = nn.Conv2d(in_planes, planes, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(planes)
        self.conv_2d_2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        same = stride == 1 and in_planes == planes
        self.shortcut = None if same else nn.Conv2d(in_planes, planes, 3, stride=stride, bias=False)
        self.activation = activation()
        self.padding = same_padding(stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(F.pad(self.activation(self.batchnorm_0(x)), self.padding))
        out = self.conv_2d_2(self.activation(self.batchnorm_1(out)))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(F.pad(x, self.padding))
        return torch.add(shortcut, out)


class DMPreActResNet(nn.Module):
    """Stem, four stages, final norm, pooling and a linear head."""

    def __init__(self, n_classes: int, channels: int, blocks: tuple[int, ...], activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        stages, in_planes = [], 64
        for planes, stride, n_blocks in zip((64, 128, 256, 512), (1, 2, 2, 2), blocks, strict=True):
            first = Block(in_planes, planes, stride, activation)
            rest = [Block(planes, planes, 1, activation) for _ in range(n_blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            in_planes = planes
        self.layer_0, self.layer_1, self.layer_2, self.layer_3 = stages
        self.batchnorm = nn.BatchNorm2d(512)
        self.activation = activation()
        self.logits = nn.Linear(512, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        out = self.activation(self.batchnorm(out)).mean(dim=(2, 3))
        logits: Tensor = self.logits(out)
        return logits


def build(n_classes: int, input_shape: tuple[int, int, int], depth: int = 18, activation: str = "silu") -> nn.Module:
    """A DeepMind PreAct ResNet.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); the published ones are for 32x32.
        depth: 18 or 34.
        activation: ``silu`` (Swish in the papers) or ``relu``.

    Raises:
        RequestError: another depth or activation.
    """
    if depth not in BLOCKS:
        raise RequestError(f"dm-preact-resnet: depth {depth} is none of {', '.join(map(str, BLOCKS))}")
    if activation not in ACTIVATIONS:
        raise RequestError(f"dm-preact-resnet: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return DMPreActResNet(n_classes, input_shape[0], BLOCKS[depth], ACTIVATIONS[activation])
