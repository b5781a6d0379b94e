"""A faster copy of a model for attacks. ``trusted_copy`` decides whether it may stand for the model.

The copy runs the model's own code. Only its layers change: batch norms are folded into convolutions or become affine
maps, memory is channels-last if that is wanted, and in bf16 the convolutions and linear layers compute in bf16.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustctl import geometry
from robustctl.devices import is_host, kept_random
from robustctl.precision import Precision

PLAIN_IN_EVAL = "plain_in_eval"
"""A class that has this attribute itself does in eval mode what its base class in torch does."""


class FastCopy:
    """A frozen copy in eval mode that is meant to have the same logits up to rounding, made for speed.

    Pixels rounded to bf16 would move by up to 1/512, a sixteenth of the usual l_inf radius. In bf16 the first layer
    therefore reads each pixel as the sum of two bf16 numbers.

    Args:
        image: any image (1, c, h, w) on the model's device. It shows which layer comes first, and whether the model's
            code runs on channels-last memory (``view`` mostly does not).
        channels_last: bring the copy into that order, if its code runs so; else it keeps torch's own order.

    Attributes:
        network: the copy.
        channels_last: whether it is in that order.
        refreshable: whether ``refresh`` works: the copy is in float32, and it is known of every layer what it is a copy
            of, which a ``__deepcopy__`` of the model's own may hide.
    """

    def __init__(self, model: nn.Module, precision: Precision, image: Tensor, *, channels_last: bool = True) -> None:
        copies: dict[int, Any] = {}  # by the id of the original
        with kept_random(image.device):  # the model's code runs a few times, and may draw numbers
            fast = _uncompiled(copy.deepcopy(model, copies)).eval().requires_grad_(False)
            originals = {id(copies[id(module)]): module for module in model.modules() if id(module) in copies}

            def original(own: nn.Module) -> Any:
                return originals.get(id(own))

            self.refreshable = precision == "float32" and all(original(module) for module in fast.modules())
            folded, frozen = _fold_batch_norms(fast), _freeze_batch_norms(fast)
            self._folded = [(original(conv), original(norm), conv) for conv, norm in folded]
            self._frozen = [(original(norm), own) for norm, own in frozen]
            changed = {id(conv) for conv, _ in folded}
            self._kept = [(original(own), own) for own in fast.modules() if original(own) and id(own) not in changed]
            if is_host(image.device):
                _thin_out(fast)
            self.network = _changed(fast, precision, image)
            self.channels_last = channels_last and _has_images(fast) and _runs_channels_last(fast, image)
            if not self.channels_last:
                fast.register_forward_pre_hook(lambda module, inputs: geometry.contiguous(*inputs))

    def refresh(self) -> None:
        """Take over the weights, statistics and plain numbers that the model has now. Its layers must be the same.

        Raises:
            ValueError: the copy is not ``refreshable``.
        """
        if not self.refreshable:
            raise ValueError("this copy cannot take over new weights")
        held: list[Tensor] = []
        new: list[Tensor] = []
        for original, own in self._kept:
            for name, value in [*original._parameters.items(), *original._buffers.items(), *vars(original).items()]:
                if isinstance(value, Tensor) and isinstance(tensor := getattr(own, name, None), Tensor):
                    held.append(tensor)
                    new.append(value)
                elif isinstance(value, int | float | str) and name != "training":
                    setattr(own, name, value)
        with torch.no_grad():
            torch._foreach_copy_(held, new)
            for conv, norm, own_conv in self._folded:
                for parameter, value in zip(own_conv.parameters(), _fold(conv, norm), strict=True):
                    parameter.copy_(value)
            for norm, own_norm in self._frozen:
                own_norm.take(norm)


def _changed(fast: nn.Module, precision: Precision, image: Tensor) -> nn.Module:
    """The copy with other layers, in place; its batch norms are changed already."""
    layers = [module for module in fast.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if precision == "bf16" and layers:
        first = _first_executed(fast, layers, image)
        first.weight = nn.Parameter(torch.cat([first.weight, first.weight], dim=1), requires_grad=False)
        channels = 1 if isinstance(first, nn.Conv2d) else -1
        first.register_forward_pre_hook(lambda module, inputs: _split(inputs[0], channels))
        for layer in layers:
            layer.bfloat16()
    return fast


def _has_images(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in model.modules())


def _uncompiled(model: nn.Module) -> nn.Module:
    """The code behind ``torch.compile``: a compiled graph keeps the layers that it was compiled with."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, _original(child))
    return _original(model)


def _original(module: nn.Module) -> nn.Module:
    # By its name, since the class is in a part of torch that takes a second to import.
    while type(module).__name__ == "OptimizedModule" and isinstance(
        inner := module._modules.get("_orig_mod"), nn.Module
    ):
        module = inner
    return module


def _runs_channels_last(fast: nn.Module, image: Tensor) -> bool:
    """Bring the copy into channels-last order; if its code does not run like that, leave it as it was."""
    plain = {name: tensor.clone() for name, tensor in fast.named_parameters() if tensor.dim() == 4}
    fast.to(memory_format=torch.channels_last)
    hook = fast.register_forward_pre_hook(lambda module, inputs: _channels_last(*inputs))
    try:
        with torch.no_grad():
            fast(image.expand(2, -1, -1, -1))  # a single image has both orders at once, and ``view`` runs on it
    except RuntimeError:  # such as a ``view`` of what a convolution returns
        hook.remove()
        for name, parameter in fast.named_parameters():
            if name in plain:
                parameter.data = plain[name]
        return False
    return True


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


def _fold_batch_norms(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Fold each batch norm that alone follows a convolution into its weights, in place; return these pairs.

    A symbolic trace only finds the pairs. It is never run: it would leave out what plain code does beside tensors, such
    as backward passes of the model's own and branches on values.
    """
    pairs = _pairs(model)
    for conv, norm in pairs:
        weight, bias = _fold(conv, norm)
        conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        _replace(model, norm, nn.Identity())
    return pairs


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both do."""
    assert norm.running_mean is not None and norm.running_var is not None
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


class _Tracer(fx.Tracer):
    """Looks into no batch norm that is one of torch's in eval mode."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return PLAIN_IN_EVAL in vars(type(m)) or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    try:
        # The trace runs the model's code, which may change its buffers: hence another copy, which shares the weights.
        shared = {id(parameter): parameter for parameter in model.parameters()}
        nodes = list(_Tracer().trace(copy.deepcopy(model, shared)).nodes)
    except Exception:  # the model's own code ran on stand-ins for tensors, and may raise anything at all about them
        return []
    layers = dict(model.named_modules())
    calls = [node.target for node in nodes]
    read = {node.target.rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    pairs = []
    for node in nodes:
        if node.op != "call_module" or not _is_foldable(norm := layers[node.target], nn.BatchNorm2d) or not node.args:
            continue
        before = node.args[0]
        if before.op != "call_module" or not _is_foldable(conv := layers[before.target], nn.Conv2d):
            continue
        once = len(before.users) == 1 and calls.count(before.target) == calls.count(node.target) == 1
        if once and read.isdisjoint({node.target, before.target}):
            pairs.append((conv, norm))
    return pairs


def _is_foldable(module: nn.Module, kind: type[nn.Conv2d] | type[nn.BatchNorm2d]) -> bool:
    """Whether the module does what its class in torch does: no subclass, no hook, no ``forward`` of its own."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    same = type(module) is kind or (PLAIN_IN_EVAL in vars(type(module)) and isinstance(module, kind))
    if not same or "forward" in vars(module) or any(getattr(module, name) for name in hooks):
        return False
    if isinstance(module, nn.BatchNorm2d) and (module.running_mean is None or module.training):
        return False
    return all(tensor.dtype == torch.float32 for tensor in module.parameters())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is registered; a module may have several parents."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)


def _thin_out(model: nn.Module) -> None:
    """Let convolutions of one pixel that skip pixels, as shortcuts of ResNets do, meet the others alone, in place.

    A CPU's kernels look at all pixels: the backward pass through such a layer takes half as long so.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and _skips_pixels(conv) and _is_foldable(conv, nn.Conv2d):
            stride, conv.stride = conv.stride, (1, 1)
            conv.register_forward_pre_hook(lambda module, inputs, stride=stride: _Thinned.apply(*inputs, *stride))


def _skips_pixels(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding in ("valid", (0, 0))


class _Thinned(torch.autograd.Function):
    """Each so many-th row and column of images (n, c, h, w); the gradient of the others is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, columns: int) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.order = torch.channels_last if last else torch.contiguous_format
        ctx.shape, ctx.steps = x.shape, (rows, columns)
        return x[:, :, ::rows, ::columns].contiguous(memory_format=ctx.order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (rows, columns) = grads, ctx.steps
        # A slice's own backward pass writes all pixels twice, in torch's order.
        out = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.order).zero_()
        out[:, :, ::rows, ::columns] = grad
        return out, None, None


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
        scale, shift = self._affine(norm)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("zero", torch.zeros_like(scale))
        self.register_buffer("one", torch.ones_like(scale))

    def take(self, norm: nn.BatchNorm2d) -> None:
        """Become the map of another batch norm with as many channels."""
        scale, shift = self._affine(norm)
        self.scale.copy_(scale)
        self.shift.copy_(shift)

    @staticmethod
    def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            scale = scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        return scale, shift + norm.bias.detach() if norm.affine else shift

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


def _freeze_batch_norms(model: nn.Module) -> list[tuple[nn.BatchNorm2d, _FrozenBatchNorm]]:
    """Replace the other batch norms, in place; return each with what replaced it."""
    frozen = []
    for module in list(model.modules()):
        if isinstance(module, nn.BatchNorm2d) and _is_foldable(module, nn.BatchNorm2d):
            frozen.append((module, _FrozenBatchNorm(module)))
            _replace(model, *frozen[-1])
    return frozen
