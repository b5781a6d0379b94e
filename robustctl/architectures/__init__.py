"""Architectures: one family a file, each with ``build(n_classes, input_shape, **literal arguments) -> nn.Module``.

The network that a builder returns keeps the zoo's own parameter names, so that published weights load strictly.
"""

import copy
import importlib
import inspect
import sys
from contextlib import suppress
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from robustctl import discovery, user_code
from robustctl.devices import HOST
from robustctl.errors import RequestError, of_users_code
from robustctl.modes import kept_modes
from robustctl.progress import say
from robustctl.spec import Architecture, CodeRecord, ModelSpec, Normalization
from robustctl.user_code import UserCode

MAX_PARAMETERS = 5_000_000_000
MAX_NUMBER = {"depth": 1000, "layers": 1000, "channels": 1000}  # of the others 100,000
SMALL_NUMBER = {"norm_eps": (1e-12, 1.0)}


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


class OwnClassifier(Classifier):
    """A network of the user's own. An output with a field ``logits``, as the transformers library has it, is opened.

    Args:
        net: from images to logits.
        opens: whether its output is such an object.
    """

    def __init__(self, net: nn.Module, opens: bool, normalization: Normalization | None = None) -> None:
        super().__init__(net, normalization)
        self.opens = opens

    def forward(self, x: Tensor) -> Tensor:
        out: Any = self.net(self.normalize(x))
        return out.logits if self.opens else out  # type: ignore[no-any-return]


def opens_logits(net: nn.Module, image: Tensor) -> bool:
    """Show an image (1, c, h, w) to a network of the user's own; whether its output is an object with ``logits``.

    Raises:
        RequestError: it cannot take the image, or gives something else than one row of logits.
    """
    taking = f"{type(net).__name__} cannot take an image {list(image.shape)} of floats in [0,1]: "
    with of_users_code(taking), torch.no_grad(), kept_modes(net):
        out = net.eval()(image.to(device_of(net)))
    opens = not isinstance(out, Tensor) and isinstance(getattr(out, "logits", None), Tensor)
    logits = out.logits if opens else out
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RequestError(f"{type(net).__name__} returns {what} for one image; expected logits [1, number of classes]")
    return opens


def device_of(module: nn.Module) -> torch.device:
    """Where a module is: the device of its first parameter or buffer; the CPU if it has none."""
    tensor = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return HOST if tensor is None else tensor.device


def build(spec: ModelSpec) -> Classifier:
    """Build the classifier that a spec describes, with fresh random weights.

    A spec may come from anybody's repo: numbers are bounded, a copy without memory is built before, and code of its own
    is built only by code that the user has granted.

    Raises:
        RequestError: unknown architecture, arguments that its builder does not take, too large a network, or code that
            was not granted.
    """
    if spec.architecture.code is not None:
        net = _build_by_code(spec.architecture, spec.n_classes, spec.input_shape)
        return OwnClassifier(net, opens_logits(net, torch.zeros(1, *spec.input_shape)), spec.normalization)
    empty_copy(spec)
    return Classifier(_build(spec), spec.normalization)


def empty_copy(spec: ModelSpec) -> nn.Module | None:
    """The spec's network on the meta device: shapes alone, no memory; raises as ``build`` does.

    It is None for models of other libraries and of the user's own code: their names fix their sizes, and not all of
    them can be built so.
    """
    if spec.architecture.code is not None:
        return None
    _check_numbers(spec)
    if "/" in spec.architecture.name:
        return None
    _import_library(spec.architecture.name)
    try:
        with torch.device("meta"):
            net = _build(spec)
    except RequestError:
        _require_version(spec.architecture.name)
        raise
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > MAX_PARAMETERS:
        what = f"architecture {spec.architecture.name} with {spec.architecture.args}"
        raise RequestError(f"{what} has {count / 1e9:.1f} billion parameters, more than {MAX_PARAMETERS / 1e9:.0f}")
    return net


def _import_library(name: str) -> None:
    """Import the ``LIBRARY`` that an architecture declares: the tensors of its modules must not become meta ones."""
    library = getattr(discovery.load(__name__, name, "architecture"), "LIBRARY", None)
    if library is not None:
        with suppress(ImportError, RuntimeError):  # building says what is missing
            importlib.import_module(library)


def _require_version(name: str) -> None:
    """Raise RequestError if an architecture's ``LIBRARY`` is older than its ``LEAST_VERSION``."""
    module = discovery.load(__name__, name, "architecture")
    library, least = getattr(module, "LIBRARY", None), getattr(module, "LEAST_VERSION", None)
    found = getattr(sys.modules.get(library or ""), "__version__", None)
    if least is not None and found is not None and Version(found) < Version(least):
        raise RequestError(
            f"architecture {name} needs {library} {least} or newer, not {found}: pip install '{library}>={least}'"
        )


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


def build_own(code: UserCode, n_classes: int, input_shape: tuple[int, int, int]) -> tuple[nn.Module, Architecture]:
    """Build a network by the user's own code, and the architecture that records it; raises as ``build`` does."""
    record = CodeRecord(file=code.file.name, name=code.name, sha256=code.sha256)
    architecture = Architecture(name="own", args=dict(code.args), code=record)
    with user_code.granted(code):
        return _build_by_code(architecture, n_classes, input_shape), architecture


def _build_by_code(architecture: Architecture, n_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Call the code that the user has named; a record alone runs nothing."""
    record, code = architecture.code, user_code.current()
    assert record is not None, "this architecture has no code"
    if code is None:
        raise RequestError(
            f"this model is built by code of its own ({record.file}, SHA-256 {record.sha256[:12]}...), which robustctl "
            f"never runs by itself; read the code, then name it: --model-code FILE.py:{record.name}"
        )
    if code.args and dict(code.args) != architecture.args:
        raise RequestError(f"--model-code {code.text}: the model was made with the arguments {architecture.args}")
    if code.sha256 != record.sha256:
        say(f"{code.file} is not the code that this model was made with: its SHA-256 was {record.sha256[:12]}...")
    builder = code.load()
    if isinstance(builder, nn.Module):
        return copy.deepcopy(builder)
    with of_users_code(f"--model-code {code.text} fails with "):
        taken = inspect.signature(builder).parameters
        known = {"n_classes": n_classes, "input_shape": input_shape}
        net = builder(**{name: value for name, value in known.items() if name in taken}, **architecture.args)
    if not isinstance(net, nn.Module):
        raise RequestError(f"--model-code {code.text} returns a {type(net).__name__}, not a torch.nn.Module")
    return net


def _check_numbers(spec: ModelSpec) -> None:
    """Refuse numbers that no network has, before a builder counts up to them."""
    numbers = {"n_classes": spec.n_classes, "channels": spec.input_shape[0], **spec.architecture.args}
    for key, value in numbers.items():
        if isinstance(value, bool | str):
            continue
        least, bound = SMALL_NUMBER.get(key, (1, MAX_NUMBER.get(key, 100_000)))
        if not least <= value <= bound:
            raise RequestError(
                f"architecture {spec.architecture.name}: {key} is {value}; it must be from {least} to {bound}"
            )
