"""The residual networks of Robust Principles for large images (Peng et al., arXiv:2308.16258).

Bottlenecks with grouped convolutions, squeeze-and-excitation before their last convolution, SiLU, and no norm behind
their first one; the stem leaves the resolution to the stages.
"""

from torch import Tensor, nn

from robustctl.architectures.dm_wide_resnet import SqueezeExcitation
from robustctl.architectures.ra_wide_resnet import numbers
from robustctl.errors import RequestError

BOTTLENECK = 4
"""A stage's width divided by that within its bottlenecks."""
STAGES = 4


def convolution(n_in: int, n_out: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A square convolution without bias that keeps the image's size up to its stride."""
    return nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)


class Bottleneck(nn.Module):
    """Activated sum of a shortcut and the branch ``F``; the shortcut is projected where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, group: int, squeeze: float) -> None:
        super().__init__()
        inner = n_out // BOTTLENECK
        changes = n_in != n_out or stride != 1
        self.proj = (
            nn.Sequential(convolution(n_in, n_out, stride=stride), nn.BatchNorm2d(n_out)) if changes else nn.Identity()
        )
        branch = nn.Sequential()
        branch.add_module("a", nn.Sequential(convolution(n_in, inner), nn.Identity(), nn.SiLU()))
        grouped = convolution(inner, inner, 3, stride, inner // group)
        branch.add_module("b", nn.Sequential(grouped, nn.BatchNorm2d(inner), nn.SiLU()))
        branch.add_module("se", SqueezeExcitation(inner, round(squeeze * n_in)))
        branch.add_module("c", nn.Sequential(convolution(inner, n_out), nn.BatchNorm2d(n_out)))
        self.F = branch
        self.last_activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last_activation(self.proj(x) + self.F(x))
        return out


class Stem(nn.Module):
    """A 7x7 convolution of stride 2, norm, ReLU."""

    def __init__(self, channels: int, planes: int) -> None:
        super().__init__()
        layers = nn.Sequential(convolution(channels, planes, 7, 2), nn.BatchNorm2d(planes), nn.ReLU())
        self.stem = nn.Sequential()
        self.stem.add_module("stem", layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(x)
        return out


class RaResNet(nn.Module):
    """Stem, four stages that each halve the resolution, pooling and a linear head."""

    def __init__(
        self,
        n_classes: int,
        channels: int,
        stem: int,
        depths: list[int],
        widths: list[int],
        groups: list[int],
        squeeze: float,
    ) -> None:
        super().__init__()
        self.stem = Stem(channels, stem)
        self.stages = nn.Sequential()
        n_in = stem
        for number, (depth, n_out, group) in enumerate(zip(depths, widths, groups, strict=True), 1):
            stage = nn.Sequential()
            for k in range(depth):
                block = Bottleneck(n_out if k else n_in, n_out, 1 if k else 2, group, squeeze)
                stage.add_module(f"stage{number}-block{k}", block)
            self.stages.add_module(f"stage{number}", stage)
            n_in = n_out
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.stages(self.stem(x)).mean(dim=(2, 3)))
        return logits


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    stem: int = 96,
    depths: str = "5-8-13-1",
    widths: str = "288-576-1120-2160",
    groups: str = "36-72-140-270",
    squeeze: float = 0.25,
) -> nn.Module:
    """Build it with random weights, by default the published RaResNet-50.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); the published ones are for 224x224.
        stem: channels of the stem. depths, widths: blocks and channels of the four stages.
        groups: channels in a group of each stage's grouped convolutions.
        squeeze: share of a block's input channels that its squeeze-and-excitation keeps.

    Raises:
        RequestError: depths, widths or groups are not four whole numbers, or a group's width does not divide its
            bottleneck's.
    """
    name = "ra-resnet"
    blocks, planes = numbers(name, "depths", depths, STAGES), numbers(name, "widths", widths, STAGES)
    grouped = numbers(name, "groups", groups, STAGES)
    for width, group in zip(planes, grouped, strict=True):
        if width % BOTTLENECK or (width // BOTTLENECK) % group:
            raise RequestError(f"{name}: a group of {group} channels does not divide {width} / {BOTTLENECK}")
    return RaResNet(n_classes, input_shape[0], stem, blocks, planes, grouped, squeeze)
