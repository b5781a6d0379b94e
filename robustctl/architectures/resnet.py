"""Residual networks (He et al., arXiv:1512.03385): for small images with RobustBench's names, else with torchvision's.

The two layouts differ in the stem, in two names (``shortcut`` and ``linear``; ``downsample`` and ``fc``) and in
nothing else; strides sit in the 3x3 convolutions.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.errors import RequestError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
LAYOUTS = ("cifar", "torchvision")


class Residual(nn.Module):
    """relu(branch + shortcut); the shortcut is a 1x1 convolution with a norm if the shape changes."""

    def __init__(self, in_planes: int, out_planes: int, stride: int, layout: str) -> None:
        super().__init__()
        self.shortcut_name = "shortcut" if layout == "cifar" else "downsample"
        if stride != 1 or in_planes != out_planes:
            projection = nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)
            self.add_module(self.shortcut_name, nn.Sequential(projection, nn.BatchNorm2d(out_planes)))
        else:
            self.add_module(self.shortcut_name, nn.Identity())

    def branch(self, x: Tensor) -> Tensor:
        """The convolutions; overridden."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.get_submodule(self.shortcut_name)(x)
        return F.relu(self.branch(x) + shortcut)


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, width: int, layout: str) -> None:
        super().__init__(in_planes, planes, stride, layout)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions; ``width`` widens the middle one (Zagoruyko and Komodakis, arXiv:1605.07146)."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int, width: int, layout: str) -> None:
        super().__init__(in_planes, 4 * planes, stride, layout)
        inner = width * planes
        self.conv1 = nn.Conv2d(in_planes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        last: Tensor = self.bn3(self.conv3(out))
        return last


class ResNet(nn.Module):
    """Stem, four stages, pooling and a linear head."""

    def __init__(self, n_classes: int, channels: int, depth: int, width: int, layout: str) -> None:
        super().__init__()
        cifar = layout == "cifar"
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(
            channels, 64, 3 if cifar else 7, stride=1 if cifar else 2, padding=1 if cifar else 3, bias=False
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if cifar else nn.MaxPool2d(3, stride=2, padding=1)
        stages, in_planes = [], 64
        for planes, stride, n_blocks in zip((64, 128, 256, 512), (1, 2, 2, 2), BLOCKS[depth], strict=True):
            out_planes = planes * block.expansion
            first = block(in_planes, planes, stride, width, layout)
            rest = [block(out_planes, planes, 1, width, layout) for _ in range(n_blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            in_planes = out_planes
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.head_name = "linear" if cifar else "fc"
        self.add_module(self.head_name, nn.Linear(in_planes, n_classes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(F.relu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.get_submodule(self.head_name)(out.mean(dim=(2, 3)))
        return logits


def build(
    n_classes: int, input_shape: tuple[int, int, int], depth: int = 18, width: int = 1, layout: str = "cifar"
) -> nn.Module:
    """A ResNet-depth.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        depth: 18, 34, 50, 101 or 152.
        width: factor of the bottlenecks' middle (2 for wide_resnet50_2); from depth 50 on.
        layout: ``cifar`` (3x3 stem, RobustBench's names) or ``torchvision`` (7x7 stem and pooling).

    Raises:
        RequestError: another depth or layout, or a width below depth 50.
    """
    if depth not in BLOCKS:
        raise RequestError(f"resnet: depth {depth} is none of {', '.join(map(str, BLOCKS))}")
    if layout not in LAYOUTS:
        raise RequestError(f"resnet: layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if width != 1 and depth < 50:
        raise RequestError(f"resnet: width {width} needs bottlenecks, that is depth 50 or more")
    return ResNet(n_classes, input_shape[0], depth, width, layout)
