"""Per-norm operations on batches of images (n, c, h, w) in [0,1]. No model here.

Every operation treats a row as if it were alone: no result depends on which rows share the batch.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.devices import is_host, upload
from robustctl.threats import Norm

Radius = float | Tensor
Generators = torch.Generator | list[torch.Generator]

ROOT_STEPS = 60
"""Upper bound of iterations of the one-dimensional root searches; they end after five to ten."""
ROUNDINGS = 16
"""A root search ends when the norm is this many relative float roundings from the radius."""
MULTIPLIER_STEPS = 8
"""After these the bound of ``least`` in l_2 is within a thousandth of the best one, see its test."""


def norm(delta: Tensor, norm: Norm) -> Tensor:
    """The ``norm`` of each row, shape (n,), in the type of ``delta``."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    lengths: Tensor = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    return lengths


_length = norm  # for functions with a parameter of that name


def project(x_adv: Tensor, x: Tensor, norm: Norm, eps: Radius) -> Tensor:
    """Nearest point, in the Euclidean distance, of the ball around ``x`` cut with the box [0,1].

    Args:
        x_adv, x: (n, c, h, w); ``x`` lies in the box.
        eps: one radius, or one per row (n,); > 0.

    Returns:
        A new tensor. The ball holds up to float rounding; ``shrink_inside`` removes that too.
    """
    radius = _per_row(eps, x)
    if norm == "linf":
        return _project_linf(x_adv, x, radius)
    flat = x.flatten(1)
    delta = x_adv.flatten(1) - flat
    search = is_host(x.device)
    if norm == "l1":
        delta = (_project_l1 if search else _project_l1_sorted)(delta, flat, radius)
    else:
        delta = (_project_l2 if search else _project_l2_sorted)(delta, flat, radius)
    return (flat + delta).clamp_(0, 1).view_as(x)


def _project_linf(x_adv: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    eps = eps.view(-1, *[1] * (x.dim() - 1))
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp_(0, 1)


def _project_l1(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Projection (n, d) of ``delta`` onto the l_1 ball cut with the box around ``x``.

    With room_i the way of pixel i to the box on its own side, it is sign(delta) clamp(|delta| - mu, 0, room), whose sum
    is eps. The multiplier mu >= 0 of each row is the root of a decreasing piecewise-linear function. Newton's method
    finds it in a few steps of cost d; a bracket guards it (a step that leaves the bracket is replaced by its middle). A
    sort of the 2 d break points, the usual way, is several times slower.
    """
    size = delta.abs()
    room = (_compare(torch.gt, delta, 0.0) - x).abs_()
    excess = torch.minimum(size, room).sum(1) - eps
    open_ = excess > 0
    # Every pixel that moves gives up at most mu, hence the lower bound to start from.
    mu = low = torch.where(open_, excess / size.sign().sum(1).clamp_min(1), 0)
    high = size.amax(1)
    tolerance = ROUNDINGS * torch.finfo(size.dtype).eps * eps
    for _ in range(ROOT_STEPS):
        rest = size - mu[:, None]
        inside = torch.minimum(rest, room).clamp_(min=0)
        if not bool(open_.any()):
            break
        gap = inside.sum(1) - eps
        slope = _compare(torch.eq, inside, rest).sum(1)  # pixels neither at 0 nor at the box
        low = torch.where(open_ & (gap > 0), mu, low)
        high = torch.where(open_ & (gap < 0), mu, high)
        newton = mu + gap / slope
        open_ = open_ & (gap.abs() > tolerance) & (newton != mu)
        good = (newton > low) & (newton < high)  # False also if the slope is 0 and the step not finite
        mu = torch.where(open_, torch.where(good, newton, (low + high) / 2), mu)
        open_ = open_ & (mu > low) & (mu < high)
    return torch.copysign(inside, delta)


def _project_l2(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Projection (n, d) of ``delta`` onto the l_2 ball cut with the box around ``x``.

    It is clamp(s delta, -x, 1 - x) with a scale s in (0, 1] for each row. Given which pixels the box cuts, s has a
    closed form; started from no pixel cut, s and the set of cut pixels grow together, so that the iteration ends at the
    answer.
    """
    below, above = -x, 1 - x
    inside = torch.clamp(delta, below, above)
    open_ = _length(inside, "l2") > eps
    tiny = torch.finfo(x.dtype).tiny
    growth = 1 + ROUNDINGS * torch.finfo(x.dtype).eps
    scale = torch.where(open_, eps / _length(delta, "l2").clamp_min(tiny), 1)
    for _ in range(ROOT_STEPS):
        if not bool(open_.any()):
            break
        scaled = delta * scale[:, None]
        inside = torch.clamp(scaled, below, above)
        free = _length(inside * _compare(torch.eq, inside, scaled), "l2")
        cut = _length(inside, "l2").square() - free.square()
        better = scale * ((eps.square() - cut).clamp_min(0).sqrt() / free)
        open_ = open_ & (better > scale * growth) & (better < torch.inf)
        scale = torch.where(open_, better, scale)
    return inside


def _project_l1_sorted(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """The same as ``_project_l1``, by sorting: an accelerator would make the host wait each time a search asks for its
    end.

    The sum falls with mu, by as much per unit as pixels move. A pixel begins to move at |delta| - room and ends at
    |delta|; between two of these 2 d sorted places the sum is linear, so that the multiplier has a closed form.
    """
    size = delta.abs()
    room = (_compare(torch.gt, delta, 0.0) - x).abs_()
    excess = torch.minimum(size, room).sum(1, keepdim=True) - eps[:, None]
    places, order = torch.cat([(size - room).clamp_(min=0), size], dim=1).sort(dim=1)
    moving = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(1)
    fallen = F.pad((moving[:, :-1] * places.diff(dim=1)).cumsum(1), (1, 0))
    segment = (_compare(torch.lt, fallen, excess).sum(1, keepdim=True).long() - 1).clamp_(0, fallen.shape[1] - 1)
    start, gone, slope = (table.gather(1, segment) for table in (places, fallen, moving))
    mu = start + (excess - gone) / slope.clamp_min(1)
    # The sums above have rounded; one step of Newton's method takes that out.
    rest = size - mu
    inside = torch.minimum(rest, room).clamp_(min=0)
    gap = inside.sum(1, keepdim=True) - eps[:, None]
    mu = (mu + gap / _compare(torch.eq, inside, rest).sum(1, keepdim=True).clamp_min(1)) * (excess > 0)
    return torch.copysign(torch.minimum(size - mu, room).clamp_(min=0), delta)


def _project_l2_sorted(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """The same as ``_project_l2``, by sorting the scales at which the box cuts each pixel; for accelerators.

    Between two of them the squared norm is what is cut and scale^2 times what is free, so that the scale has a closed
    form.
    """
    size = delta.abs()
    room = (_compare(torch.gt, delta, 0.0) - x).abs_()
    tiny = torch.finfo(x.dtype).tiny
    places, order = (room / size.clamp_min(tiny)).clamp_(max=1).sort(dim=1)
    cut = F.pad(room.square().gather(1, order).cumsum(1), (1, 0))
    free = F.pad(size.square().gather(1, order).flip(1).cumsum(1).flip(1), (0, 1))  # of the pixels from here on
    square = eps.square()[:, None]
    n_cut = _compare(torch.lt, cut[:, :-1] + places.square() * free[:, :-1], square).sum(1, keepdim=True).long()
    scale = ((square - cut.gather(1, n_cut)).clamp_(min=0) / free.gather(1, n_cut).clamp_min(tiny)).sqrt()
    # The sums above have rounded; the same closed form at the place that was found takes that out.
    scaled = size * scale
    is_free = _compare(torch.le, scaled, room)
    still = torch.minimum(scaled, room).mul(1 - is_free).square().sum(1, keepdim=True)
    scale = (square - still).clamp_(min=0).sqrt() / _length(size * is_free, "l2")[:, None].clamp_min(tiny)
    inside = torch.minimum(size, room)
    is_open = _length(inside, "l2")[:, None] > square.sqrt()
    return torch.copysign(torch.where(is_open, torch.minimum(size * scale, room), inside), delta)


def steepest_step(grad: Tensor, norm: Norm, sparsity: Tensor | None = None) -> Tensor:
    """Step of ``norm`` 1 along which a linear function with this gradient rises most; 0 for a zero gradient.

    Args:
        grad: (n, c, h, w).
        sparsity: for l_1 only, (n,) in [0,1]: the step is spread evenly over this share of the pixels, those with the
            largest gradients (SLIDE and l_1-APGD); at least one. With None it is the exact steepest step, one pixel
            (more if they tie).
    """
    if norm == "linf":
        return grad.sign()
    flat = grad.flatten(1)
    if norm == "l2":
        length = _length(flat, "l2").clamp_min(torch.finfo(flat.dtype).tiny)
        return (flat / length[:, None]).view_as(grad)
    size = flat.abs()
    least = size.amax(1, keepdim=True) if sparsity is None else _threshold(size, sparsity)
    signs = flat.sign() * _compare(torch.ge, size, least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def _threshold(size: Tensor, share: Tensor) -> Tensor:
    """The value (n, 1) that the largest ``share`` of each row reaches."""
    d = size.shape[1]
    skip = ((1 - share) * d).long().clamp(0, d - 1)[:, None]
    return _ascending(size, by_numpy=is_host(size.device)).gather(1, skip)


def _ascending(rows: Tensor, *, by_numpy: bool) -> Tensor:
    """Each row (n, d) in ascending order; numpy does that some ten times faster than torch on a CPU."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if by_numpy else rows.sort(dim=1).values


def random_start(x: Tensor, norm: Norm, eps: Radius, generator: Generators) -> Tensor:
    """Random points of ball and box, as APGD starts (arXiv:2003.01690, arXiv:2103.01208).

    l_inf: uniform noise whose largest entry reaches the radius; l_2: a uniform direction of length eps; both are then
    cut to the box. l_1: Gaussian noise projected onto ball and box.
    """
    noise = draw(x, generator, uniform=norm == "linf")
    if norm == "l1":
        return project(x + noise, x, norm, eps)
    scale = _per_row(eps, x) / _length(noise, norm)
    return (x + noise * scale.view(-1, *[1] * (x.dim() - 1))).clamp_(0, 1)


def draw(x: Tensor, generator: Generators, *, uniform: bool) -> Tensor:
    """Noise shaped like ``x``: uniform in [-1,1], or standard normal.

    Args:
        generator: one CPU generator for the batch, or one per image, so that an image's noise is its own.
    """
    sample = torch.rand if uniform else torch.randn
    if isinstance(generator, torch.Generator):
        noise = sample(x.shape, generator=generator)
    else:
        noise = torch.stack([sample(x.shape[1:], generator=one) for one in generator])
    return upload(noise * 2 - 1 if uniform else noise, x.device).to(x)


def shrink_inside(x_adv: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """Move float32 points by a few roundings so that their norm in float64 is at most ``eps``, and clip to the box.

    Rows that are inside already come back as they are.
    """
    x_adv = x_adv.clamp(0, 1)
    delta = (x_adv.double() - x.double()).flatten(1)
    # For l_inf it clamps: scaling would weaken the whole image for the rounding of one pixel.
    scale = (eps / _length(delta, norm)).clamp(max=1)[:, None]
    inner = (delta.clamp(-eps, eps) if norm == "linf" else delta * scale).view_as(x)
    rounded = (x + inner).to(x.dtype)
    # Rounding may lengthen a coordinate; one float towards x makes it no longer than it was in float64.
    longer = (rounded.double() - x.double()).abs() > inner.abs()
    rounded = torch.where(longer, torch.nextafter(rounded, x), rounded)
    outside = (_length(delta, norm) > eps).view(-1, *[1] * (x.dim() - 1))
    return torch.where(outside, rounded, x_adv)


def least(factor: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """The least value of ``<factor, delta>`` over the ball cut with the box; in l_2 a lower bound on it.

    Args:
        factor: (n, d). x: the centre, (1, d) or (n, d), in the box.

    Returns:
        (n,). In l_2 every multiplier gives a lower bound (weak duality); ``MULTIPLIER_STEPS`` make it a tight one.
    """
    room = torch.where(factor > 0, x, 1 - x)  # how far each pixel can go against its factor
    size = factor.abs()
    if norm == "linf":
        return -(size * room.clamp_max(eps)).sum(1)
    if norm == "l1":
        size, order = size.sort(1, descending=True)
        room = room.gather(1, order)
        left = (eps - room.cumsum(1) + room).clamp_min(0)
        return -(size * room.minimum(left)).sum(1)
    multiplier = _length(factor, "l2")[:, None] / (2 * eps)
    multiplier = multiplier.clamp_min(torch.finfo(factor.dtype).tiny)
    for _ in range(MULTIPLIER_STEPS):
        step = (size / (2 * multiplier)).minimum(room)
        multiplier = (multiplier * _length(step, "l2")[:, None] / eps).clamp_min(torch.finfo(factor.dtype).tiny)
    step = (size / (2 * multiplier)).minimum(room)
    return (multiplier * (step * step) - size * step).sum(1) - multiplier[:, 0] * eps**2


def contiguous(x: Tensor) -> Tensor:
    """Images (n, c, h, w) in memory in that order, which code with ``view`` relies on; a copy only if they are not.

    ``Tensor.contiguous`` leaves images of one channel as they are, and convolutions then answer in another order.
    """
    _, channels, height, width = x.shape
    strides = (channels * height * width, height * width, width, 1)
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)


def _compare(compare: Callable[..., Tensor], a: Tensor, b: Tensor | float) -> Tensor:
    """A comparison as 0 and 1 in the type of ``a``: on a CPU, arithmetic with masks of bool is some 20 times slower."""
    return compare(a, b, out=torch.empty_like(a))


def _per_row(eps: Radius, x: Tensor) -> Tensor:
    if isinstance(eps, Tensor):
        return eps
    return torch.full((len(x),), eps, dtype=x.dtype, device=x.device)
