"""Architectures: one family a file, each with ``build(n_classes, input_shape, **literal arguments) -> nn.Module``.

The network that a builder returns keeps the zoo's own parameter names, so that published weights load strictly.
"""

import inspect

import torch
from torch import Tensor, nn

from robustctl import discovery
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec, Normalization


class Normalize(nn.Module):
    """(x - mean) / std per channel. The constants are in the model's spec, hence not in its weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """A network behind its normalisation: images (n, c, h, w) in [0,1] to logits (n, n_classes)."""

    def __init__(self, net: nn.Module, normalization: Normalization | None) -> None:
        super().__init__()
        self.normalize = Normalize(normalization) if normalization else nn.Identity()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalize(x))
        return logits


def build(spec: ModelSpec) -> Classifier:
    """Build the classifier that a spec describes, with fresh random weights.

    Raises:
        RequestError: unknown architecture, or arguments that its builder does not take.
    """
    name = spec.architecture.name
    family, _, model = name.partition("/")  # timm/xcit_small_12_p16_224: a model of another library, by its name there
    builder = discovery.load(__name__, family, "architecture").build
    try:
        net = builder(spec.n_classes, spec.input_shape, **({"model": model} if model else {}), **spec.architecture.args)
    except TypeError as error:
        parameters = list(inspect.signature(builder).parameters)[2:]
        raise RequestError(f"architecture {name}: {error}. Its arguments: {', '.join(parameters) or 'none'}.") from None
    return Classifier(net, spec.normalization)
