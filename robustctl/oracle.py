"""A classifier frozen for attacks: logits and input gradients, no weight gradients, every mode restored afterwards."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustctl.architectures import device_of
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.progress import say

Loss = Callable[[Tensor, Tensor], Tensor]
Precision = Literal["float32", "bf16"]
PRECISIONS = (*get_args(Precision), "auto")
BF16_ERROR = 0.25
"""Logits in bf16 that are further off than this, relative to their norm, are not the model's."""


def pick_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU.

    Raises:
        RequestError: a device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 where the device multiplies in it natively, else float32.

    Raises:
        RequestError: not one of ``PRECISIONS``.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name != "auto":
        return "bf16" if name == "bf16" else "float32"
    return "bf16" if _has_bf16(device) else "float32"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="utf-8").split())


def confirm_precision(precision: Precision, model: nn.Module, image: Tensor) -> Precision:
    """The precision that the model can be attacked in; a line on stderr where it is not the one that was chosen.

    bf16 is kept where one image gets finite logits that are the model's up to rounding, and a finite gradient.
    Networks that compute in several types at once (such as a layer norm in float32) mostly fail that.

    Args:
        image: (1, c, h, w) in [0,1], on the model's device.
    """
    if precision == "bf16" and not _runs_in_bf16(model, image):
        say("this model cannot be run in bf16: the attacks run in float32")
        return "float32"
    return precision


def _runs_in_bf16(model: nn.Module, image: Tensor) -> bool:
    try:
        with Oracle(model, "bf16", image) as oracle:
            expected = oracle.exact(image)
            x = image.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = _float32(oracle.attacked(x))
                gradients = torch.autograd.grad(logits.sum(), x) if logits.requires_grad else ()
    except Exception:  # what a network does with numbers of two types is its own affair, and so is what it raises
        return False
    close = (logits - expected).norm() <= BF16_ERROR * expected.norm()
    return bool(close) and all(bool(gradient.isfinite().all()) for gradient in gradients)


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed as such: no TF32, no autocast; the settings are put back afterwards."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


class Oracle:
    """Use as ``with Oracle(model) as oracle``: inside, the model is in eval mode and its parameters are frozen.

    Args:
        precision: None attacks the live model as it is, which is what training needs. Otherwise a private copy is made
            that is faster and equal up to rounding: batch norm folded into convolutions, channels-last, and in bf16
            where ``precision`` says so. Changes of the model's weights do not reach the copy.
        image: any image (1, c, h, w) on the model's device, which bf16 needs.

    Attributes:
        precision: that of the copy, or None.
        forwards, gradients: images that went through a forward pass alone, and through forward and backward.
    """

    def __init__(self, model: nn.Module, precision: Precision | None = None, image: Tensor | None = None) -> None:
        self.model = model
        self.precision = precision
        self.attacked = model if precision is None else accelerate(model, precision, image)
        self.forwards = 0
        self.gradients = 0
        self._modes: list[tuple[nn.Module, bool]] = []
        self._trainable: list[nn.Parameter] = []

    def __enter__(self) -> Self:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.model.eval()
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, mode in self._modes:
            module.training = mode
        for parameter in self._trainable:
            parameter.requires_grad_(True)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where images must be."""
        return device_of(self.model)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Inside, a copy in float32 is attacked."""
        before = self.precision, self.attacked
        self.precision, self.attacked = "float32", accelerate(self.model, "float32")
        try:
            yield
        finally:
            self.precision, self.attacked = before

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k), float32, of images (n, c, h, w) in [0,1]."""
        self.forwards += len(x)
        with torch.no_grad():
            return _float32(self.attacked(x))

    def exact(self, x: Tensor) -> Tensor:
        """Logits of the model itself, in true float32; what breaks a point is confirmed with these."""
        self.forwards += len(x)
        with torch.no_grad(), true_float32(self.device):
            return _float32(self.model(x))

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, k), per-example loss (n,) and its gradient in x (n, c, h, w); none carries a graph.

        Args:
            exact: of the model itself in true float32, as ``exact`` has it.
        """
        self.gradients += len(x)
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), true_float32(self.device) if exact else nullcontext():
            logits = _float32((self.model if exact else self.attacked)(x))
            values = loss(logits, y)
            (grad,) = torch.autograd.grad(values.sum(), x)
        return logits.detach(), values.detach(), grad


def accelerate(model: nn.Module, precision: Precision, image: Tensor | None = None) -> nn.Module:
    """A frozen copy in eval mode with the same logits up to rounding, made for speed.

    Pixels rounded to bf16 would move by up to 1/512, a sixteenth of the usual l_inf radius. In bf16 the first layer
    therefore reads each pixel as the sum of two bf16 numbers.

    Args:
        image: any image (1, c, h, w) on the model's device; it shows bf16 which layer comes first.
    """
    fast = _freeze_batch_norms(_fold_batch_norms(copy.deepcopy(model).eval())).requires_grad_(False)
    layers = [module for module in fast.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if precision == "bf16" and layers:
        assert image is not None, "bf16 needs an image"
        first = _first_executed(fast, layers, image)
        first.weight = nn.Parameter(torch.cat([first.weight, first.weight], dim=1), requires_grad=False)
        channels = 1 if isinstance(first, nn.Conv2d) else -1
        first.register_forward_pre_hook(lambda module, inputs: _split(inputs[0], channels))
        for layer in layers:
            layer.bfloat16()
    if any(isinstance(layer, nn.Conv2d) for layer in layers):
        fast.to(memory_format=torch.channels_last)
        fast.register_forward_pre_hook(lambda module, inputs: _channels_last(*inputs))
    return fast


def _first_executed(model: nn.Module, layers: list[nn.Conv2d | nn.Linear], image: Tensor) -> nn.Conv2d | nn.Linear:
    """The layer that meets the pixels; modules may be registered in another order than the forward pass has."""
    met: list[nn.Module] = []

    def meet(module: nn.Module, _inputs: Any) -> None:
        met.append(module)

    hooks = [layer.register_forward_pre_hook(meet) for layer in layers]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return next(layer for layer in layers if layer is met[0])


def _split(x: Tensor, dim: int = 1) -> Tensor:
    """float32 to bf16, twice as long in ``dim``: the rounded values and what rounding took; the gradient is x's."""
    high = x.bfloat16()
    low = (x.detach() - high.detach()).bfloat16()
    return torch.cat([high, low], dim=dim)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold each batch norm that alone follows a convolution into its weights; the model as it is if it has none.

    The model must not be trained afterwards.
    """
    try:
        graph = fx.symbolic_trace(model)
    except Exception:  # the model's own code ran on stand-ins for tensors, and may raise anything at all about them
        return model
    layers = dict(graph.named_modules())
    calls = [node.target for node in graph.graph.nodes]
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := layers[node.target], nn.BatchNorm2d) or not node.args:
            continue
        before = node.args[0]
        is_conv = before.op == "call_module" and isinstance(layers[before.target], nn.Conv2d)
        alone = len(before.users) == 1 and calls.count(before.target) == 1
        if is_conv and alone and norm.running_mean is not None:
            graph.set_submodule(before.target, fuse_conv_bn_eval(layers[before.target], norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


class _FrozenBatchNorm(nn.Module):
    """A batch norm in eval mode as the affine map that it is, ``scale * x + shift`` for each channel.

    PyTorch's own backward pass in eval mode also sums up the gradients of weights that do not change, which takes more
    than twice the time.
    """

    scale: Tensor
    shift: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            scale = scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        if norm.affine:
            shift = shift + norm.bias.detach()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("zero", torch.zeros_like(scale))
        self.register_buffer("one", torch.ones_like(scale))

    def forward(self, x: Tensor) -> Tensor:
        return _Affine.apply(x, self.scale, self.shift, self.zero, self.one)  # type: ignore[no-any-return]


class _Affine(torch.autograd.Function):
    """Through batch norm's forward kernel, which is the fastest that PyTorch has for it in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, zero: Tensor, one: Tensor) -> Tensor:
        ctx.save_for_backward(scale, zero, one)
        return F.batch_norm(x, zero, one, scale, shift, eps=0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        scale, zero, one = ctx.saved_tensors
        return F.batch_norm(grads[0], zero, one, scale, zero, eps=0.0), None, None, None, None


def _freeze_batch_norms(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
                setattr(parent, name, _FrozenBatchNorm(child))
    return model


def _float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits
