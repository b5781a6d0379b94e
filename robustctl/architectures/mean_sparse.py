"""Networks that replace features near their mean by the mean (MeanSparse; Amini et al., arXiv:2406.05927).

The step is no attack's friend: its derivative is 0 near the mean, so that an attack may see less than is there. Judge
such a network by more than one kind of attack; `docs/trust.md` says how.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from robustctl.architectures import dm_wide_resnet, timm
from robustctl.errors import RequestError

MODELS = ("convnext_large", "dm-wide-resnet")

LIBRARY = "timm"
"""Imported before a network is built on the meta device."""


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
        """Features of the same shape: (n, planes, h, w), or (n, h, w, planes) if the second dimension differs."""
        planes = len(self.running_mean)
        shape = (1, planes, 1, 1) if x.shape[1] == planes else (1, 1, 1, planes)
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
        model: ``dm-wide-resnet`` (for 32 x 32), or ``convnext_large`` of timm.
        depth, width, activation: of a ``dm-wide-resnet``.

    Raises:
        RequestError: another model, or what its own builder refuses.
    """
    if model == "dm-wide-resnet":
        return dm_wide_resnet.checked(n_classes, input_shape, depth, width, activation, MeanSparse)
    if model != "convnext_large":
        raise RequestError(f"mean-sparse: model {model!r} is none of {', '.join(MODELS)}")
    return _convnext(timm.build(n_classes, input_shape, model))


def _convnext(net: nn.Module) -> nn.Module:
    """Put the step before the GELU and at the end of the branch of each block of a ConvNeXt."""
    for name, part in list(net.named_modules()):
        if name.startswith("stages.") and type(part).__name__ == "ConvNeXtBlock":
            block = cast(Any, part)
            planes, hidden = block.mlp.fc2.out_features, block.mlp.fc1.out_features
            block.mlp.act = nn.Sequential(MeanSparse(hidden, extra=True), block.mlp.act)
            block.drop_path = nn.Sequential(block.drop_path, MeanSparse(planes, extra=True))
    return net
