"""The shared parts of attacks on few pixels: sigma-zero, the best corner of the box, and giving pixels back."""

import math

import torch
from torch import Tensor

from robustctl import losses
from robustctl.oracle import Oracle

SMOOTH, FIRST_THRESHOLD, THRESHOLD_STEP = 1e-3, 0.3, 0.01
"""sigma, tau_0 and t of arXiv:2402.01879, Sec. 3."""
DECAY = 0.9
"""The mean gradient shrinks by it at each further corner, so that two corners do not alternate for ever."""


def changed(x_adv: Tensor, x: Tensor) -> Tensor:
    """How many pixels differ in any channel, shape (n,)."""
    return (x_adv != x).any(dim=1).flatten(1).sum(dim=1)


def sigma_zero(oracle: Oracle, x: Tensor, y: Tensor, steps: int, enough: float = 0) -> Tensor:
    """sigma-zero (Cinà et al., arXiv:2402.01879) on whole pixels: the least number that changes the answer.

    Args:
        x: images (n, c, h, w) in [0,1]. y: labels (n,). steps: gradient evaluations per image, >= 1.
        enough: an image leaves when it is broken with so few pixels.

    Returns:
        The misclassified points (n, c, h, w) with the fewest changed pixels; the image itself if there was none.
    """
    best, fewest = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    delta = torch.zeros_like(x)
    threshold = torch.full((len(x), 1, 1, 1), FIRST_THRESHOLD, dtype=x.dtype, device=x.device)
    for step in range(steps):
        alive = (fewest > enough).nonzero().squeeze(1)
        if not len(alive):
            break
        clean, here = x[alive], delta[alive]
        rate = (1 + math.cos(math.pi * step / steps)) / 2
        _, margins, grad = oracle.loss_and_grad(clean + here, y[alive], losses.margin, exact=True)
        wrong, count = margins > 0, changed(clean + here, clean)
        better = wrong & (count < fewest[alive])
        best[alive[better]], fewest[alive[better]] = (clean + here)[better], count[better].to(x)
        wrong = wrong.view(-1, 1, 1, 1)
        square = here.square().sum(dim=1, keepdim=True)
        sparse = 2 * here * SMOOTH / (square + SMOOTH).square() / square[0].numel()
        total = sparse - torch.where(wrong, 0.0, 1.0) * grad
        total = total / total.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        here = (clean + here - rate * total).clamp(0, 1) - clean
        threshold[alive] = (threshold[alive] + THRESHOLD_STEP * rate * torch.where(wrong, 1.0, -1.0)).clamp(min=0)
        small = here.abs().amax(dim=1, keepdim=True) < threshold[alive]
        delta[alive] = here * ~small
    return best


def corner(x: Tensor, grad: Tensor, most: int | Tensor) -> Tensor:
    """The image that changes at most ``most`` (one number, or one per row) pixels and on which a linear loss with this
    gradient is largest."""
    ends = (grad > 0).to(x)
    gain = ((ends - x) * grad).sum(dim=1).flatten(1)
    rank = gain.argsort(dim=1, descending=True).argsort(dim=1)
    limit = most[:, None] if isinstance(most, Tensor) else most
    chosen = ((rank < limit) & (gain > 0)).view_as(x[:, 0])[:, None]
    return torch.where(chosen, torch.where(grad == 0, x, ends), x)


def climb_corners(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    most: Tensor,
    steps: int,
    *,
    start: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Go from corner to corner along the mean of the gradients; exact on a linear model with its first step.

    Args:
        most: pixels that may change, one number per row. start: where the first gradient is taken; the images without.
        target: class (n,) to aim at; without, any other.

    Returns:
        Misclassified points (n, c, h, w), else the last corners.
    """
    current = (x if start is None else start).clone()
    mean, alive = torch.zeros_like(x), torch.arange(len(x), device=x.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return (
            losses.margin(logits, labels) if target is None else losses.margin_targeted(logits, labels, target[alive])
        )

    for _ in range(steps):
        _, _, grad = oracle.loss_and_grad(current[alive], y[alive], loss)
        size = grad.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        mean[alive] = DECAY * mean[alive] + grad / size
        current[alive] = corner(x[alive], mean[alive], most[alive])
        right = losses.margin(oracle.exact(current[alive]), y[alive]) <= 0
        alive = alive[right]
        if not len(alive):
            break
    return current


def fewer(oracle: Oracle, x: Tensor, y: Tensor, x_adv: Tensor, tries: int) -> Tensor:
    """Give changed pixels back, the least changed first and several at a time while that works.

    Args:
        tries: forward passes of a misclassified image; the others stay as they are.
    """
    rows = (losses.margin(oracle.exact(x_adv), y) > 0).nonzero().squeeze(1)
    if not len(rows):
        return x_adv
    clean, best, labels = x[rows], x_adv[rows].clone(), y[rows]
    size = (best - clean).abs().sum(dim=1).flatten(1)
    rank = torch.where(size > 0, size, torch.inf).argsort(dim=1).argsort(dim=1).view_as(clean[:, 0])[:, None]
    count = changed(best, clean)
    first, many = torch.zeros_like(count), (count // 4).clamp(min=1)
    for _ in range(tries):
        if not (first < count).any():
            break
        end = (first + many).clamp(max=count)
        given = (rank >= first.view(-1, 1, 1, 1)) & (rank < end.view(-1, 1, 1, 1))
        tried = torch.where(given, clean, best)
        kept = losses.margin(oracle.exact(tried), labels) > 0
        best = torch.where(kept.view(-1, 1, 1, 1), tried, best)
        single = many == 1
        first = torch.where(kept | single, end, first)
        many = torch.where(kept, many, (many // 2).clamp(min=1))
    out = x_adv.clone()
    out[rows] = best
    return out
