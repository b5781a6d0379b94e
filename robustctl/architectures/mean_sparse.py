"""Networks that replace features near their mean by the mean (MeanSparse; Amini et al., arXiv:2406.05927).

The step is no attack's friend: its derivative is 0 near the mean, so that an attack may see less than is there. Judge
such a network by more than one kind of attack; `docs/trust.md` says how.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustctl.architectures import dm_wide_resnet, ra_wide_resnet, timm
from robustctl.errors import RequestError

MODELS = ("convnext_large", "dm-wide-resnet", "ra-wide-resnet", "swin_large_patch4_window7_224")

LIBRARY, LEAST_VERSION = "timm", "1.0.21"
"""Imported before a network is built on the meta device; an older one asks for values there while it builds."""


class MeanSparse(nn.Module):
    """Features within ``threshold`` standard deviations of their channel's mean become that mean (eq. 5).

    Args:
        planes: number of channels.
        extra: whether the file also carries ``momentum`` and ``epsilon``, which no forward pass reads.
    """

    running_mean: Tensor
    running_var: Tensor
    threshold: Tensor

    def __init__(self, planes: int, extra: bool = False) -> None:
        super().__init__()
        if extra:
            self.register_buffer("momentum", torch.tensor(0.1))
            self.register_buffer("epsilon", torch.tensor(1e-10))
        self.register_buffer("running_mean", torch.zeros(planes))
        self.register_buffer("running_var", torch.zeros(planes))
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("flag_update_statistics", torch.tensor(0))
        self.register_buffer("batch_num", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape: (n, planes, h, w), or (n, ..., planes) if the second dimension differs."""
        planes = len(self.running_mean)
        shape = (planes, 1, 1) if x.dim() == 4 and x.shape[1] == planes else (planes,)
        mean = self.running_mean.view(shape)
        width = (self.threshold * self.running_var.sqrt()).view(shape)
        return torch.where((x - mean).abs() < width, mean, x)


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    model: str = "dm-wide-resnet",
    depth: int = 70,
    width: int = 16,
    activation: str = "silu",
) -> nn.Module:
    """Build a published MeanSparse network, with random weights and a threshold of 0, at which the step does nothing.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        model: ``dm-wide-resnet`` or ``ra-wide-resnet`` (for 32 x 32, the latter Ra-WRN-70-16), or ``convnext_large`` or
            ``swin_large_patch4_window7_224`` of timm.
        depth, width, activation: of a ``dm-wide-resnet``.

    Raises:
        RequestError: another model, or what its own builder refuses.
    """
    if model == "dm-wide-resnet":
        return dm_wide_resnet.checked(n_classes, input_shape, depth, width, activation, MeanSparse)
    if model == "ra-wide-resnet":
        return ra_wide_resnet.checked(n_classes, input_shape, 96, "30-31-10", "216-432-864", 0.25, MeanSparse)
    if model not in MODELS:
        raise RequestError(f"mean-sparse: model {model!r} is none of {', '.join(MODELS)}")
    net = timm.build(n_classes, input_shape, model)
    return _convnext(net) if model == "convnext_large" else _swin(net)


def _convnext(net: nn.Module) -> nn.Module:
    """Put the step before the GELU and at the end of the branch of each block of a ConvNeXt."""
    for name, part in list(net.named_modules()):
        if name.startswith("stages.") and type(part).__name__ == "ConvNeXtBlock":
            block = cast(Any, part)
            planes, hidden = block.mlp.fc2.out_features, block.mlp.fc1.out_features
            block.mlp.act = nn.Sequential(MeanSparse(hidden, extra=True), block.mlp.act)
            block.drop_path = nn.Sequential(block.drop_path, MeanSparse(planes, extra=True))
    return net


def _swin(net: nn.Module) -> nn.Module:
    """Put the step behind both sums of each block of a Swin, and around the activation of its perceptron."""
    for block in [cast(Any, part) for part in net.modules() if type(part).__name__ == "SwinTransformerBlock"]:
        planes, hidden = block.mlp.fc2.out_features, block.mlp.fc1.out_features
        block.meansparse1, block.meansparse2 = MeanSparse(planes), MeanSparse(planes)
        block.mlp.meansparse1, block.mlp.meansparse2 = MeanSparse(hidden), MeanSparse(planes)
        # The parameters keep timm's names, so each block stays the object that it is and gets another forward pass.
        block.__class__ = _with(type(block), _swin_block)
        block.mlp.__class__ = _with(type(block.mlp), _perceptron)
    return net


def _with(kind: type[nn.Module], forward: Callable[[Any, Tensor], Tensor]) -> type[nn.Module]:
    """A subclass of a module's class with another forward pass."""
    return type(f"Sparse{kind.__name__}", (kind,), {"forward": forward})


def _swin_block(block: Any, x: Tensor) -> Tensor:
    """Features (n, h, w, planes) after attention and perceptron."""
    x = block.meansparse1(x + block.drop_path1(block._attn(block.norm1(x))))
    shape = x.shape
    x = x.flatten(1, 2)
    x = x + block.drop_path2(block.mlp(block.norm2(x)))
    sparse: Tensor = block.meansparse2(x)
    return sparse.view(shape)


def _perceptron(mlp: Any, x: Tensor) -> Tensor:
    hidden = mlp.norm(mlp.drop1(mlp.act(mlp.meansparse1(mlp.fc1(x)))))
    out: Tensor = mlp.drop2(mlp.meansparse2(mlp.fc2(hidden)))
    return out
