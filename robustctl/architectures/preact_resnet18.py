"""Pre-activation ResNet-18 (He et al., arXiv:1603.05027) with RobustBench's parameter names and its variants."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.errors import RequestError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "softplus": F.softplus, "silu": F.silu}


class PreActBlock(nn.Module):
    """Two 3x3 convolutions behind their norms; ``raw_shortcut`` feeds the shortcut before the activation."""

    def __init__(
        self, in_planes: int, planes: int, stride: int, activation: Callable[[Tensor], Tensor], raw_shortcut: bool
    ) -> None:
        super().__init__()
        self.activation = activation
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = (
            None
            if stride == 1 and in_planes == planes
            else nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else activated)
        out: Tensor = self.conv2(self.activation(self.bn2(self.conv1(activated))))
        return out + shortcut


class PreActResNet18(nn.Module):
    """Stem, four stages of two blocks, optional final norm, pooling and a linear head."""

    def __init__(
        self,
        n_classes: int,
        channels: int,
        activation: Callable[[Tensor], Tensor],
        bn_before_fc: bool,
        raw_shortcut: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        stages, in_planes = [], 64
        for planes, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            stages.append(
                nn.Sequential(
                    PreActBlock(in_planes, planes, stride, activation, raw_shortcut),
                    PreActBlock(planes, planes, 1, activation, raw_shortcut),
                )
            )
            in_planes = planes
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn = nn.BatchNorm2d(512) if bn_before_fc else None
        self.linear = nn.Linear(512, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = F.relu(self.bn(out))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    activation: str = "relu",
    bn_before_fc: bool = True,
    raw_shortcut: bool = False,
) -> nn.Module:
    """A PreAct ResNet-18 for small images.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        activation: of the blocks: ``relu``, ``softplus`` (E-AT's networks) or ``silu``; the last one is always ReLU.
        bn_before_fc: final norm and activation before pooling (Rice 2020 has it, Wong 2020 has not).
        raw_shortcut: shortcut from the input before its activation (Wong 2020).

    Raises:
        RequestError: unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise RequestError(f"preact-resnet18: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return PreActResNet18(n_classes, input_shape[0], ACTIVATIONS[activation], bn_before_fc, raw_shortcut)
