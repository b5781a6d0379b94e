"""A network with its ReLUs replaced by linear bounds: the backward pass then gives a bound on the whole network.

CROWN (Zhang et al., NeurIPS 2018, arXiv:1811.00866), Section 3.3: between two bounds ``low < 0 < high`` on its argument
a ReLU lies below the line through its values at both, and above one through 0 of slope 0 or 1. A negative factor takes
the upper line, a positive one the lower line. The product of these lines with the affine layers between them is what
automatic differentiation computes, so the network itself is run, of whatever structure it is.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from robustctl.errors import RequestError

Function = Callable[..., Any]

RELU = {torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu, F.relu_}
AFFINE = {
    *("add", "radd", "iadd", "sub", "rsub", "isub", "subtract", "neg", "sum", "mean", "cat", "clone", "contiguous"),
    *("batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "pad", "dropout", "to", "type_as", "double", "expand"),
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "getitem"),
}
PRODUCTS = {"mul", "rmul", "imul", "multiply", "matmul", "rmatmul", "mm", "conv2d", "linear"}
QUOTIENTS = {"div", "divide", "truediv", "itruediv", "true_divide"}
"""Names of functions, without underscores, that are affine, or are so if a single argument depends on the image."""
LOOKS = {"size", "dim", "shape", "ndim", "dtype", "device", "numel", "stride", "layout", "is_cuda", "requires_grad"}
"""Functions that read no value of a tensor."""
ROUNDING = 1e-6
"""Relative difference up to which two float64 passes of a network are the same."""


class Bounds(NamedTuple):
    """The least and the largest argument of one ReLU over a ball, at least and at most; each of shape (1, ...)."""

    low: Tensor
    high: Tensor


class Relaxed(TorchFunctionMode):
    """While it is entered, each ReLU that is called has the derivative of its linear bound.

    Attributes:
        argument: of the ReLU ``stop``, (rows, ...), or None before it was reached.
        constants: what each relaxed ReLU adds to the bound, one tensor (rows,) per ReLU, after the backward pass.

    Raises:
        RequestError: a function of the network is neither affine nor a ReLU.
    """

    def __init__(self, bounds: Sequence[Bounds], stop: int | None = None) -> None:
        super().__init__()
        self.constants: list[Tensor] = []
        self.argument: Tensor | None = None
        self._bounds = bounds
        self._stop = stop
        self._reached = 0

    def __torch_function__(
        self, function: Function, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in RELU and args[0].requires_grad:
            return self._relu(args[0])
        require_affine(function, args, kwargs or {})
        return function(*args, **(kwargs or {}))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        return kind is _Reached

    def _relu(self, argument: Tensor) -> Tensor:
        if self._reached == self._stop:
            self.argument = argument
            raise _Reached
        bounds = self._bounds[self._reached]
        self._reached += 1
        relaxed: Tensor = _RelaxedReLU.apply(argument, *bounds, self.constants)
        return relaxed


class _Reached(Exception):
    """The ReLU whose argument is asked for is reached: the rest of the network is not run."""


class _RelaxedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, low: Tensor, high: Tensor, constants: list[Tensor]) -> Tensor:
        ctx.save_for_backward(z, low, high)
        ctx.constants = constants
        return z.relu()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        z, low, high = ctx.saved_tensors
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        crossing = (low < 0) & (high > 0)
        passing = (low >= 0).to(z.dtype)
        upper = torch.where(crossing, high / torch.where(crossing, high - low, 1), passing)
        lower = torch.where(crossing, (high > -low).to(z.dtype), passing)  # the line nearer to the ReLU by area
        slope = torch.where(factor < 0, upper, lower)
        above = torch.where((factor < 0) & crossing, -low * upper, zero)
        # The bound is written around the point of the forward pass, where the ReLU itself is z.relu().
        ctx.constants.append((factor * (slope * z + above - z.relu())).flatten(1).sum(1))
        return factor * slope, None, None, None


def require_affine(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise RequestError if a function that the network called is not affine in what depends on the image."""
    values = [one for arg in [*args, *kwargs.values()] for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
    moving = [one for one in values if isinstance(one, Tensor) and one.requires_grad]
    name = resolve_name(function) or getattr(function, "__name__", str(function))
    plain = name.removesuffix(".__get__").rpartition(".")[2].strip("_")
    alone = len(moving) == 1 and (plain in PRODUCTS or (plain in QUOTIENTS and moving[0] is args[0]))
    if moving and not alone and plain not in AFFINE | LOOKS:
        raise RequestError(f"no bound is known for {plain} in this network: certify knows affine layers and ReLU")


def shapes(network: nn.Module, x: Tensor) -> list[torch.Size]:
    """The shapes (without the batch) of the arguments of a network's ReLUs, in the order in which they are called.

    Args:
        x: images (n, c, h, w) in [0,1], float64.

    Raises:
        RequestError: the network is not made of affine layers and ReLUs alone.
    """
    seen: list[Tensor] = []
    masks = _Masked(seen)
    start = x[:1].clone().requires_grad_()
    with masks:
        value = network(start)
    (slope,) = torch.autograd.grad(value.sum(), start)
    masks.again()
    moved = x.clone().requires_grad_()
    with masks:
        others = network(moved)
    expected = value.detach().sum() + ((x - x[:1]) * slope).flatten(1).sum(1)
    # Functions of the user's own do not pass through a mode; with its ReLUs held fixed the network must be affine.
    others = others.detach()
    if not torch.allclose(others.sum(1), expected, rtol=ROUNDING, atol=ROUNDING * float(others.abs().max())):
        raise RequestError("this network is not made of affine layers and ReLUs alone: no bound on it is known")
    return [argument.shape[1:] for argument in seen]


class _Masked(TorchFunctionMode):
    """ReLUs hold the signs that they had at the first image, so that the network around them is affine."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self._seen = seen
        self._next: int | None = None

    def again(self) -> None:
        self._next = 0

    def __torch_function__(
        self, function: Function, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function not in RELU or not args[0].requires_grad:
            require_affine(function, args, kwargs or {})
            return function(*args, **(kwargs or {}))
        if self._next is None:
            self._seen.append(args[0].detach())
            return args[0] * (args[0].detach() > 0)
        self._next += 1
        return args[0] * (self._seen[self._next - 1] > 0)
