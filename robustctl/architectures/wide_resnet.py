"""Wide residual networks (Zagoruyko and Komodakis, arXiv:1605.07146) with RobustBench's parameter names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.errors import RequestError


class BasicBlock(nn.Module):
    """Pre-activation block. Where the shape changes, shortcut and branch both start from the activated input."""

    def __init__(self, in_planes: int, out_planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.conv2 = nn.Conv2d(out_planes, out_planes, 3, padding=1, bias=False)
        self.convShortcut = (
            None if in_planes == out_planes else nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return torch.add(shortcut, out)


class NetworkBlock(nn.Module):
    """One stage: ``layer`` holds its blocks; the first changes stride and width."""

    def __init__(self, n_blocks: int, in_planes: int, out_planes: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *[
                BasicBlock(in_planes if i == 0 else out_planes, out_planes, stride if i == 0 else 1)
                for i in range(n_blocks)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Stem, three stages of strides 1, 2, 2, global average pooling and a linear head."""

    def __init__(self, depth: int, width: int, n_classes: int, channels: int, sub_block1: bool) -> None:
        super().__init__()
        n_blocks = (depth - 4) // 6
        planes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(channels, planes[0], 3, padding=1, bias=False)
        self.block1 = NetworkBlock(n_blocks, planes[0], planes[1], stride=1)
        if sub_block1:
            self.sub_block1 = NetworkBlock(n_blocks, planes[0], planes[1], stride=1)
        self.block2 = NetworkBlock(n_blocks, planes[1], planes[2], stride=2)
        self.block3 = NetworkBlock(n_blocks, planes[2], planes[3], stride=2)
        self.bn1 = nn.BatchNorm2d(planes[3])
        self.fc = nn.Linear(planes[3], n_classes)
        for module in self.modules():
            # An empty copy has nothing to draw, and asking for it there imports torch's compiler, which takes seconds.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = F.relu(self.bn1(out)).mean(dim=(2, 3))
        logits: Tensor = self.fc(out)
        return logits


def build(
    n_classes: int, input_shape: tuple[int, int, int], depth: int = 28, width: int = 10, sub_block1: bool = False
) -> nn.Module:
    """A WRN-depth-width.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width), any size that survives two halvings.
        depth: 6 k + 4 for a whole k >= 1.
        width: widening factor >= 1.
        sub_block1: carry the unused copy of the first stage that TRADES-style checkpoints hold.

    Raises:
        RequestError: a depth that is not 6 k + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise RequestError(f"wide-resnet: depth {depth} is not 6 k + 4 (10, 16, 22, 28, 34, ...)")
    return WideResNet(depth, width, n_classes, input_shape[0], sub_block1)
