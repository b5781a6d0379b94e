"""Perceptual distance (LPIPS, arXiv:1801.03924) on the model's own features (PAT, Laidlaw et al., arXiv:2006.12655).

The features are what the model's convolutions give (of a model without any, its linear layers but the last), each
scaled to length 1 across channels. No weights but the model's own take part, so that equal budgets of two
models are not the same set of images.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustctl import geometry, losses
from robustctl.devices import true_float32
from robustctl.errors import RequestError
from robustctl.perturbations.base import TOLERANCE, Effort, Family, Kind, Task, uniform
from robustctl.perturbations.boxed import margins_of

FIRST_STEP = 1.0
"""Length of the first step in l_2 for an image of 32x32 pixels in colour; it grows with the root of the pixels."""
PENALTIES = (1.0, 10.0, 100.0)
"""The price of leaving the budget, in the course of a start (the Lagrangian attack of arXiv:2006.12655, Sec. 5)."""
HALVINGS = 12
TINY = 1e-10


class Perceptual(Kind):
    """Parameters: the image itself."""

    unit = "distance of features"
    highest = 10.0
    usual = "0.5"
    source = "Laidlaw et al., arXiv:2006.12655 (self-bounded, 0.5)"

    def families(self) -> dict[str, Family]:
        """The Lagrangian attack, and random search."""
        return {
            "lagrangian": Family(self._lagrangian, _lagrangian_cost, True),
            "search": Family(self._search, lambda e: 1.5 * e.queries, False),
        }

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """The image itself."""
        return z.view_as(x)

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Measure by a copy of the model in float64; the box has no tolerance."""
        exact = copy.deepcopy(model).cpu().double().eval()
        with torch.no_grad():
            size = distance(exact, z.view_as(x), features(exact, x))
        return (size <= budget * (1 + TOLERANCE)) & ((z >= 0) & (z <= 1)).all(dim=1)

    def _lagrangian(self, task: Task) -> Tensor:
        """Climb the margin with a growing penalty for leaving the budget; then go back along the line to the image."""
        best = task.x.clone()
        margins = losses.margin(task.oracle.exact_for(task.x, task.y), task.y)
        for _ in range(task.effort.restarts):
            alive = (margins <= 0).nonzero().squeeze(1)
            if not len(alive):
                break
            part = task.rows(alive)
            noise = uniform(part.generators, part.x[0].numel(), part.x).view_as(part.x) - 0.5
            z = _climb(part, (part.x + 0.02 * noise).clamp(0, 1))
            z = pulled_back(part, z)
            found = margins_of(self, part, z.flatten(1))
            better = found > margins[alive]
            best[alive[better]], margins[alive[better]] = z[better], found[better]
        return best.flatten(1)

    def _search(self, task: Task) -> Tensor:
        """Change a random window by a random amount; keep what raises the margin inside the budget."""
        best = task.x.clone()
        margins = losses.margin(task.oracle.exact_for(best, task.y), task.y)
        for query in range(task.effort.queries):
            alive = (margins <= 0).nonzero().squeeze(1)
            if not len(alive):
                break
            part = task.rows(alive)
            z = (best[alive] + _blot(part, 1 - query / task.effort.queries)).clamp(0, 1)
            found = margins_of(self, part, z.flatten(1))
            near = _sizes(part, z, features_of(part)) <= task.budget * (1 - TOLERANCE)
            better = (found > margins[alive]) & near
            best[alive[better]], margins[alive[better]] = z[better], found[better]
        return best.flatten(1)


def features(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of each convolution, (n, c, h, w) each, of length 1 across channels and divided by the root of h*w.

    Raises:
        RequestError: the model has neither convolutions nor several linear layers.
    """
    found: list[Tensor] = []
    layers: Sequence[nn.Module] = [one for one in model.modules() if isinstance(one, nn.Conv2d)]
    layers = layers or [one for one in model.modules() if isinstance(one, nn.Linear)][:-1]
    if not layers:
        raise RequestError("threat perceptual: the model has no layers whose features could be compared")
    handles = [layer.register_forward_hook(_keeper(found)) for layer in layers]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [_scaled(one) for one in found]


def _keeper(found: list[Tensor]) -> Callable[..., None]:
    return lambda layer, inputs, output: found.append(output)


def _scaled(one: Tensor) -> Tensor:
    maps = one if one.dim() == 4 else one.flatten(1)[:, :, None, None]
    length = (maps.square().sum(dim=1, keepdim=True) + TINY).sqrt()
    return maps / length / math.sqrt(maps.shape[2] * maps.shape[3])


def distance(model: nn.Module, x: Tensor, others: list[Tensor]) -> Tensor:
    """Distance (n,) between images and others whose features are known."""
    parts = [(a - b).flatten(1).square().sum(dim=1) for a, b in zip(features(model, x), others, strict=True)]
    return (torch.stack(parts).sum(dim=0) + TINY**2).sqrt()


def features_of(task: Task) -> list[Tensor]:
    """The features of a task's images, by the model itself."""
    with torch.no_grad(), true_float32(task.oracle.device):
        return features(task.oracle.model, task.x)


def _sizes(task: Task, z: Tensor, others: list[Tensor]) -> Tensor:
    with torch.no_grad(), true_float32(task.oracle.device):
        return distance(task.oracle.model, z, others)


def _climb(task: Task, z: Tensor) -> Tensor:
    others, steps = features_of(task), task.effort.steps
    first = FIRST_STEP * math.sqrt(z[0].numel() / 3072)
    for step in range(steps):
        _, _, grad = task.oracle.loss_and_grad(z, task.y, losses.margin)
        grad = grad / _length(grad)
        inner = z.detach().requires_grad_(True)
        with torch.enable_grad(), true_float32(task.oracle.device):
            size = distance(task.oracle.model, inner, others)
            (away,) = torch.autograd.grad(size.sum(), inner)
        penalty = PENALTIES[step * len(PENALTIES) // steps]
        outside = (size.detach() > task.budget).to(z).view(-1, 1, 1, 1)
        direction = grad - outside * penalty * away / _length(away)
        rate = first * 0.05 ** (step / steps)
        z = (z + rate * direction / _length(direction)).clamp(0, 1).detach()
    return z


def _length(x: Tensor) -> Tensor:
    return geometry.norm(x, "l2").clamp(min=TINY).view(-1, 1, 1, 1)


def pulled_back(task: Task, z: Tensor) -> Tensor:
    """The last point inside the budget that halving finds on the line from the image to z."""
    others = features_of(task)
    low = torch.zeros(len(z), 1, 1, 1, dtype=z.dtype, device=z.device)
    high = torch.ones_like(low)
    low = torch.where((_sizes(task, z, others) <= task.budget * (1 - 1e-4)).view_as(low), high, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        inside = _sizes(task, task.x + middle * (z - task.x), others) <= task.budget * (1 - 1e-4)
        low = torch.where(inside.view_as(low), middle, low)
        high = torch.where(inside.view_as(low), high, middle)
    return (task.x + low * (z - task.x)).clamp(0, 1)


def _blot(task: Task, left: float) -> Tensor:
    """A constant in a random window, 0 elsewhere; the windows shrink as ``left`` falls from 1 to 0."""
    n, channels, height, width = task.x.shape
    draws = uniform(task.generators, 2 + channels, task.x)
    parts = []
    for draw, size in ((draws[:, 0], height), (draws[:, 1], width)):
        side = max(round((0.1 + 0.5 * left) * size), 1)
        first = (draw * (size - side + 1)).long()[:, None]
        places = torch.arange(size, device=task.x.device)
        parts.append((places >= first) & (places < first + side))
    window = (parts[0][:, :, None] & parts[1][:, None])[:, None]
    return window * (0.4 * draws[:, 2:] - 0.2).view(n, channels, 1, 1)


def _lagrangian_cost(effort: Effort) -> float:
    return effort.restarts * (2 * effort.steps + (HALVINGS + 3) / 2)


KIND = Perceptual()
