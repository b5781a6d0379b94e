"""Square (Andriushchenko et al., arXiv:1912.00049; l_1: arXiv:2103.01208, Sec. 4): random search without gradients.

Each query changes a square window at a random place and keeps the change if it raises the margin. Every image has its
own random numbers, and images that are broken leave.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack, Settings
from robustctl.devices import is_host, upload
from robustctl.geometry import Generators
from robustctl.oracle import Oracle
from robustctl.threats import Norm, Threat

FIRST_SHARE = 0.8
"""Share of the image that the first windows cover."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which that share is halved (arXiv:1912.00049, Sec. 5)."""
TILES = 5
"""Along each side, at the start of l_2 and l_1."""
LOOK_EVERY = 20
"""Queries on an accelerator between two looks at which points are broken; for each look the host waits for it."""
TINY = 1e-12


def square(
    oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, *, queries: int, generator: list[torch.Generator]
) -> Tensor:
    """Maximise the margin by random search.

    Args:
        x: images (n, c, h, w) in [0,1]. y: labels (n,).
        queries: forward passes per image, at most.
        generator: one per image.

    Returns:
        x_adv (n, c, h, w) inside ball and box in float64: the points of the largest margins found.
    """
    best = _start(x, threat, generator)
    margins = _verified(oracle, best, x, y, threat, losses.margin(oracle.logits(best), y))
    every = 1 if is_host(x.device) else LOOK_EVERY
    for first in range(0, queries, every):
        alive = [i for i, margin in enumerate(margins.tolist()) if margin <= 0]
        if not alive:
            break
        rows = upload(torch.tensor(alive), x.device)
        block = range(first, min(first + every, queries))
        own = [generator[i] for i in alive]
        best[rows], margins[rows] = _search(oracle, best[rows], x[rows], y[rows], threat, margins[rows], block, own)
    return geometry.shrink_inside(best, x, threat.norm, threat.eps)


def _search(
    oracle: Oracle,
    best: Tensor,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    margins: Tensor,
    queries: range,
    generator: list[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """The best points and margins after some queries; a point that seems broken waits until their end to be verified.

    A point that only seemed broken goes on from where it was before.
    """
    propose = _stripe if threat.norm == "linf" else _patch
    before, margins_before = best, margins
    for query in queries:
        draws = upload(torch.stack([torch.rand(5 + x.shape[1], generator=one) for one in generator]), x.device).to(x)
        tried = propose(x, best, threat, _share(query), draws)
        found = losses.margin(oracle.logits(tried), y)
        waits = margins > 0
        if query > queries.start:  # in the first, nothing waits
            before = _pick(waits, before, best)
            margins_before = torch.where(waits, margins_before, margins)
        better = (found > margins) & ~waits
        best, margins = _pick(better, tried, best), torch.where(better, found, margins)
    exact = _verified(oracle, best, x, y, threat, margins)
    if exact is margins:
        return best, margins
    worse = exact <= margins_before
    return _pick(worse, before, best), torch.where(worse, margins_before, exact)


def _verified(oracle: Oracle, x_adv: Tensor, x: Tensor, y: Tensor, threat: Threat, margins: Tensor) -> Tensor:
    """Margins (n,); one that says broken is taken again in full precision, strictly inside the ball."""
    broken = [i for i, margin in enumerate(margins.tolist()) if margin > 0]
    if not broken:
        return margins
    rows = upload(torch.tensor(broken), x.device)
    inside = geometry.shrink_inside(x_adv[rows], x[rows], threat.norm, threat.eps)
    return margins.index_copy(0, rows, losses.margin(oracle.exact_for(inside, y[rows]), y[rows]))


def _pick(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Images of ``a`` where ``rows`` (n,) is True, else of ``b``: exact, and faster on a CPU than ``torch.where``."""
    return torch.lerp(b, a, rows.to(a.dtype).view(-1, 1, 1, 1))


def _share(query: int) -> float:
    return float(FIRST_SHARE / 2 ** sum(query > limit for limit in HALVINGS))


def _start(x: Tensor, threat: Threat, generator: Generators) -> Tensor:
    """l_inf: vertical stripes of +-eps. l_2, l_1: a tiling by patches with random signs."""
    signs = geometry.draw(x, generator, uniform=True).sign()
    if threat.norm == "linf":
        return (x + threat.eps * signs[:, :, :1]).clamp_(0, 1)
    delta = torch.zeros_like(x)
    side = max(min(x.shape[2:]) // TILES, 1)
    pattern = _pattern(side, threat.norm, x)
    for top in range(0, x.shape[2] - side + 1, side):
        for left in range(0, x.shape[3] - side + 1, side):
            delta[:, :, top : top + side, left : left + side] = pattern * signs[:, :, top : top + 1, left : left + 1]
    return _fill_ball(x, delta, threat)


def _stripe(x: Tensor, best: Tensor, threat: Threat, share: float, draws: Tensor) -> Tensor:
    """Set a window of each channel to +eps or -eps."""
    side = max(round(math.sqrt(share * x.shape[2] * x.shape[3])), 1)
    window = _window(x, side, draws[:, 0], draws[:, 1])
    signs = (draws[:, 5:] - 0.5).sign()[:, :, None, None]
    return torch.lerp(best, (x + threat.eps * signs).clamp_(0, 1), window)


def _patch(x: Tensor, best: Tensor, threat: Threat, share: float, draws: Tensor) -> Tensor:
    """Move the mass of one window into another, in the shape of a pattern mixed with what is there."""
    side = max(round(math.sqrt(share * x.shape[2] * x.shape[3])), 3)
    side += side % 2 == 0
    target, source = _window(x, side, draws[:, 0], draws[:, 1]), _window(x, side, draws[:, 2], draws[:, 3])
    delta = best - x
    length = _lengths(threat.norm)
    signs = (draws[:, 5:] - 0.5).sign()[:, :, None, None]
    here = delta * target
    shape = signs * _placed_pattern(x, side, threat.norm, draws) + here / (length(here) + TINY)
    moved = length(delta * torch.maximum(target, source))  # of each channel
    unused = _unused(delta, threat)
    channels = x.shape[1]
    mass = (unused / channels + moved.square()).sqrt() if threat.norm == "l2" else unused + channels * moved
    shape = shape * target
    delta = delta * (1 - torch.maximum(target, source)) + shape / (length(shape) + TINY) * mass
    return _fill_ball(x, delta, threat)


def _unused(delta: Tensor, threat: Threat) -> Tensor:
    """The rest of the ball: eps^2 - |delta|^2 for l_2, eps - |delta| for l_1; (n, 1, 1, 1), >= 0."""
    power = 2 if threat.norm == "l2" else 1
    used = geometry.norm(delta, threat.norm) ** power
    return (threat.eps**power - used).clamp_min(0).view(-1, 1, 1, 1)


def _fill_ball(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    """l_2: scale to the sphere, then cut to the box. l_1: project onto ball and box."""
    if threat.norm == "l1":
        return geometry.project(x + delta, x, "l1", threat.eps)
    scale = threat.eps / (geometry.norm(delta, "l2") + TINY)
    return (x + delta * scale.view(-1, 1, 1, 1)).clamp_(0, 1)


def _lengths(norm: Norm) -> Callable[[Tensor], Tensor]:
    """Norm of each channel of each image, (n, c, 1, 1)."""
    if norm == "l2":
        return lambda delta: delta.square().sum(dim=(2, 3), keepdim=True).sqrt()
    return lambda delta: delta.abs().sum(dim=(2, 3), keepdim=True)


def _corner(size: int, side: int, draw: Tensor) -> Tensor:
    """First row (or column) of a window, (n,), uniform."""
    return (draw * (size - side + 1)).long().clamp_(max=size - side)


def _window(x: Tensor, side: int, top: Tensor, left: Tensor) -> Tensor:
    """Ones in a window of each image, zeros elsewhere: (n, 1, h, w)."""
    height, width = x.shape[2:]
    side = min(side, height, width)
    rows = torch.arange(height, device=x.device) - _corner(height, side, top)[:, None]
    columns = torch.arange(width, device=x.device) - _corner(width, side, left)[:, None]
    inside = [((offsets >= 0) & (offsets < side)).to(x.dtype) for offsets in (rows, columns)]
    return (inside[0][:, :, None] * inside[1][:, None, :])[:, None]


def _placed_pattern(x: Tensor, side: int, norm: Norm, draws: Tensor) -> Tensor:
    """The pattern of each image, upright or lying, anywhere outside its window too: (n, 1, h, w)."""
    height, width = x.shape[2:]
    side = min(side, height, width)
    pattern = _pattern(side, norm, x)
    rows = (torch.arange(height, device=x.device) - _corner(height, side, draws[:, 0])[:, None]).clamp_(0, side - 1)
    columns = (torch.arange(width, device=x.device) - _corner(width, side, draws[:, 1])[:, None]).clamp_(0, side - 1)
    upright, lying = (table[rows[:, :, None], columns[:, None, :]] for table in (pattern, pattern.T))
    return torch.lerp(upright, lying, (draws[:, 4] > 0.5).to(x.dtype)[:, None, None])[:, None]


def _pattern(side: int, norm: Norm, like: Tensor) -> Tensor:
    """Two bumps of opposite sign, one above the other, (side, side), of norm 1 (arXiv:1912.00049, Fig. 2)."""
    upper = side // 2
    halves = [sign * _bump(height, side, norm, like) for sign, height in ((1, upper), (-1, side - upper)) if height]
    pattern = torch.cat(halves)
    return pattern / geometry.norm(pattern[None], norm)


def _bump(height: int, width: int, norm: Norm, like: Tensor) -> Tensor:
    """Sum over growing squares k = 0, 1, ... around the centre of 1 / (k + 1)^2 (l_2) or ^4 (l_1), of norm 1."""
    power = 2 if norm == "l2" else 4
    rows = (torch.arange(height, device=like.device) - height // 2).abs()
    columns = (torch.arange(width, device=like.device) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype) ** power
    from_ring_on = terms.flip(0).cumsum(0).flip(0)
    bump = from_ring_on[ring]
    return bump / geometry.norm(bump[None], norm)


def _run(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, settings: Settings) -> Tensor:
    return square(oracle, x, y, threat, queries=settings.steps, generator=settings.generators)


ATTACK = Attack(_run, cost=0.5)
