"""Architectures: one family a file, each with ``build(n_classes, input_shape, **literal arguments) -> nn.Module``.

The network that a builder returns keeps the zoo's own parameter names, so that published weights load strictly.
"""

import inspect

import torch
from torch import Tensor, nn

from robustctl import discovery
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec, Normalization

MAX_PARAMETERS = 5_000_000_000
MAX_NUMBER = {"depth": 1000, "layers": 1000, "channels": 1000}  # of the others 100,000


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


def device_of(module: nn.Module) -> torch.device:
    """Where a module is: the device of its first parameter or buffer; the CPU if it has none."""
    tensor = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if tensor is None else tensor.device


def build(spec: ModelSpec) -> Classifier:
    """Build the classifier that a spec describes, with fresh random weights.

    A spec may come from anybody's repo: numbers are bounded, and a copy without memory is built before.

    Raises:
        RequestError: unknown architecture, arguments that its builder does not take, or too large a network.
    """
    empty_copy(spec)
    return Classifier(_build(spec), spec.normalization)


def empty_copy(spec: ModelSpec) -> nn.Module | None:
    """The spec's network on the meta device: shapes alone, no memory; raises as ``build`` does.

    None for models of other libraries: their names fix their sizes, and not all of them can be built so.
    """
    _check_numbers(spec)
    if "/" in spec.architecture.name:
        return None
    with torch.device("meta"):
        net = _build(spec)
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > MAX_PARAMETERS:
        what = f"architecture {spec.architecture.name} with {spec.architecture.args}"
        raise RequestError(f"{what} has {count / 1e9:.1f} billion parameters, more than {MAX_PARAMETERS / 1e9:.0f}")
    return net


def _build(spec: ModelSpec) -> nn.Module:
    name, args = spec.architecture.name, spec.architecture.args
    family, _, model = name.partition("/")  # timm/xcit_small_12_p16_224: a model of another library, by its name there
    builder = discovery.load(__name__, family, "architecture").build
    try:
        net: nn.Module = builder(spec.n_classes, spec.input_shape, **({"model": model} if model else {}), **args)
    except TypeError as error:
        parameters = list(inspect.signature(builder).parameters)[2:]
        raise RequestError(f"architecture {name}: {error}. Its arguments: {', '.join(parameters) or 'none'}.") from None
    except RequestError:
        raise
    except Exception as error:  # the libraries behind some of them raise errors of their own
        fault = str(error) or type(error).__name__
        raise RequestError(f"architecture {name} cannot be built with {args}: {fault}") from None
    return net


def _check_numbers(spec: ModelSpec) -> None:
    """Refuse numbers that no network has, before a builder counts up to them."""
    numbers = {"n_classes": spec.n_classes, "channels": spec.input_shape[0], **spec.architecture.args}
    for key, value in numbers.items():
        if isinstance(value, bool | str):
            continue
        bound = MAX_NUMBER.get(key, 100_000)
        if not 1 <= value <= bound:
            raise RequestError(f"architecture {spec.architecture.name}: {key} is {value}; it must be from 1 to {bound}")
