"""Per-norm operations on batches of images (n, c, h, w) in [0,1]. No model here.

Every operation treats a row as if it were alone: no result depends on which rows share the batch.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustctl.threats import Norm

Radius = float | Tensor
Generators = torch.Generator | list[torch.Generator]

ROOT_STEPS = 60
"""Upper bound of iterations of the one-dimensional root searches; they end after five to ten."""
ROUNDINGS = 16
"""A root search ends when the norm is this many relative float roundings from the radius."""


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
        eps: one radius, or one a row (n,); > 0.

    Returns:
        A new tensor. The ball holds up to float rounding; ``shrink_inside`` removes that too.
    """
    radius = _per_row(eps, x)
    if norm == "linf":
        return _project_linf(x_adv, x, radius)
    delta = (x_adv - x).flatten(1)
    size = delta.abs()
    # How far each pixel may go on its own side before it leaves the box.
    room = torch.where(delta > 0, 1 - x.flatten(1), x.flatten(1))
    size = _shrink_l1(size, room, radius) if norm == "l1" else _shrink_l2(size, room, radius)
    return torch.add(x, torch.copysign(size, delta).view_as(x)).clamp_(0, 1)


def _project_linf(x_adv: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    eps = eps.view(-1, *[1] * (x.dim() - 1))
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp_(0, 1)


def _shrink_l1(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Magnitudes (n, d) of the projection onto l_1 ball and box: clamp(size - mu, 0, room), with sum eps.

    The multiplier mu >= 0 of each row is the root of a decreasing piecewise-linear function. Newton's method finds it
    in a few steps of cost d; a bracket guards it (a Newton step that leaves the bracket is replaced by its middle).
    A sort of the 2 d break points, the usual way, is several times slower.
    """
    inside = torch.minimum(size, room)
    open_ = inside.sum(1) > eps
    low = torch.zeros_like(eps)
    high = size.amax(1)
    mu = torch.zeros_like(eps)
    tolerance = ROUNDINGS * torch.finfo(size.dtype).eps * eps
    for _ in range(ROOT_STEPS):
        if not bool(open_.any()):
            break
        rest = size - mu[:, None]
        inside = torch.minimum(rest, room).clamp_(min=0)
        gap = inside.sum(1) - eps
        slope = ((inside > 0) & (rest < room)).sum(1)
        low = torch.where(open_ & (gap > 0), mu, low)
        high = torch.where(open_ & (gap < 0), mu, high)
        open_ = open_ & (gap.abs() > tolerance)
        newton = mu + gap / slope
        open_ = open_ & (newton != mu)
        middle = (low + high) / 2
        good = (newton > low) & (newton < high)  # False also where the slope is 0 and the step not finite
        mu = torch.where(open_, torch.where(good, newton, middle), mu)
        open_ = open_ & (mu > low) & (mu < high)
    return torch.minimum(size - mu[:, None], room).clamp_(min=0)


def _shrink_l2(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Magnitudes (n, d) of the projection onto l_2 ball and box: min(s size, room), with l_2 norm eps.

    Given which pixels are cut by the box, s in (0, 1] has a closed form; started from no pixel cut, s and the set of
    cut pixels grow together, so that the iteration ends at the solution.
    """
    squares = eps * eps
    growth = 1 + ROUNDINGS * torch.finfo(size.dtype).eps
    full = torch.minimum(size, room)
    open_ = full.square().sum(1) > squares
    scale = torch.where(open_, eps / torch.linalg.vector_norm(size, dim=1).clamp_min(torch.finfo(size.dtype).tiny), 1.0)
    for _ in range(ROOT_STEPS):
        if not bool(open_.any()):
            break
        scaled = size * scale[:, None]
        cut = scaled >= room
        fixed = torch.where(cut, room, 0).square().sum(1)
        free = torch.where(cut, 0, size).square().sum(1)
        better = ((squares - fixed).clamp_min(0) / free).sqrt()
        open_ = open_ & (better > scale * growth) & (better < torch.inf)
        scale = torch.where(open_, better, scale)
    return torch.where(scale[:, None] < 1, torch.minimum(size * scale[:, None], room), full)


def steepest_step(grad: Tensor, norm: Norm, sparsity: Tensor | None = None) -> Tensor:
    """Step of ``norm`` 1 along which a linear function with this gradient rises most; 0 for a zero gradient.

    Args:
        grad: (n, c, h, w).
        sparsity: for l_1 only, (n,) in [0,1]: the step is spread evenly over this share of the pixels, those with the
            largest gradients (SLIDE and l_1-APGD); at least one. None is the exact steepest step, one pixel
            (more where they tie).
    """
    if norm == "linf":
        return grad.sign()
    flat = grad.flatten(1)
    if norm == "l2":
        length = _length(flat, "l2").clamp_min(torch.finfo(flat.dtype).tiny)
        return (flat / length[:, None]).view_as(grad)
    size = flat.abs()
    least = size.amax(1, keepdim=True) if sparsity is None else _threshold(size, sparsity)
    signs = flat.sign() * (size >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def _threshold(size: Tensor, share: Tensor) -> Tensor:
    """The value (n, 1) that the largest ``share`` of each row reaches."""
    d = size.shape[1]
    skip = ((1 - share) * d).long().clamp(0, d - 1)[:, None]
    # numpy sorts rows of floats some ten times faster than torch on a CPU.
    ordered = torch.from_numpy(np.sort(size.numpy(), axis=1)) if size.device.type == "cpu" else size.sort(1).values
    return ordered.gather(1, skip)


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
        generator: one CPU generator for the batch, or one an image, so that an image's noise is its own.
    """
    sample = torch.rand if uniform else torch.randn
    if isinstance(generator, torch.Generator):
        noise = sample(x.shape, generator=generator)
    else:
        noise = torch.stack([sample(x.shape[1:], generator=one) for one in generator])
    return (noise * 2 - 1 if uniform else noise).to(x)


def image_generators(seed: int, indices: Sequence[int], attack: str, restart: int) -> list[torch.Generator]:
    """One generator an image, a function of (seed, image index, attack, restart) alone."""
    return [image_generator(seed, index, attack, restart) for index in indices]


def image_generator(seed: int, index: int, attack: str, restart: int) -> torch.Generator:
    """The generator of one image; see ``image_generators``."""
    digest = hashlib.blake2b(f"{seed}/{index}/{attack}/{restart}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def shrink_inside(x_adv: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """Move float32 points by a few roundings so that their norm in float64 is at most ``eps``, and clip to the box.

    Rows that are inside already come back as they are.
    """
    x_adv = x_adv.clamp(0, 1)
    delta = (x_adv.double() - x.double()).flatten(1)
    # A clamp for l_inf, where scaling would weaken the whole image for the rounding of one pixel.
    scale = (eps / _length(delta, norm)).clamp(max=1)[:, None]
    inner = (delta.clamp(-eps, eps) if norm == "linf" else delta * scale).view_as(x)
    rounded = (x + inner).to(x.dtype)
    # Rounding may lengthen a coordinate; one float towards x makes it no longer than it was in float64.
    longer = (rounded.double() - x.double()).abs() > inner.abs()
    rounded = torch.where(longer, torch.nextafter(rounded, x), rounded)
    outside = (_length(delta, norm) > eps).view(-1, *[1] * (x.dim() - 1))
    return torch.where(outside, rounded, x_adv)


def _per_row(eps: Radius, x: Tensor) -> Tensor:
    if isinstance(eps, Tensor):
        return eps
    return torch.full((len(x),), eps, dtype=x.dtype, device=x.device)
