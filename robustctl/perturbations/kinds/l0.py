"""At most so many pixels change, each to any colour.

Three attacks: steps to corners of the box along the mean gradient, which are exact on a linear model; sigma-zero (Cinà
et al., arXiv:2402.01879) on whole pixels; Sparse-RS (Croce et al., arXiv:2006.12834), which needs no gradient.
"""

import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.oracle import Loss
from robustctl.perturbations.base import Effort, Family, Kind, Task, uniform
from robustctl.perturbations.boxed import gradient, margins_of
from robustctl.perturbations.sparse import changed, corner, sigma_zero

TARGETS = 9
MORE_STEPS, MORE_QUERIES = 3, 5
"""Times the effort's: sparse attacks converge slowly; 5,000 queries are RAMP's."""
SWAPPED = 0.3
"""Share of the pixels that Sparse-RS swaps at first (arXiv:2006.12834, Sec. 4)."""


class L0(Kind):
    """Parameters: the image itself."""

    unit = "pixels"
    highest = 1e6
    whole = True
    usual = "9"
    usual_digits = "1"
    source = "Croce et al., arXiv:2006.12834; budget of RAMP (B.3; E-AT has 18)"

    def families(self) -> dict[str, Family]:
        """Corners, sigma-zero, Sparse-RS."""
        return {
            "corners": Family(self._corners, _corner_cost, True),
            "sigma-zero": Family(self._sigma_zero, _sigma_cost, True),
            "sparse-rs": Family(self._sparse_rs, _query_cost, False, True),
        }

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """The image itself."""
        return z.view_as(x)

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Count the pixels that differ in any channel; the box has no tolerance."""
        changed = (z.view_as(x) != x).any(dim=1).flatten(1).sum(dim=1)
        return (changed <= budget) & ((z >= 0) & (z <= 1)).all(dim=1)

    def _corners(self, task: Task) -> Tensor:
        """For each target: the corner that a linear loss with the mean of the gradients so far would like best."""
        best = task.x.flatten(1).clone()
        logits = task.oracle.logits(task.x)
        margins = losses.margin(logits, task.y)
        ranked = logits.scatter(1, task.y[:, None], -torch.inf).argsort(dim=1, descending=True)
        targets = min(TARGETS, logits.shape[1] - 1)
        for k in range(targets):
            mean = torch.zeros_like(task.x)
            current = task.x.flatten(1)
            for _ in range(max(task.effort.steps // targets, 2)):
                alive = (margins <= 0).nonzero().squeeze(1)
                if not len(alive):
                    return best
                part, target = task.rows(alive), ranked[alive, k]
                _, _, grad = gradient(self, part, current[alive], _towards(target))
                mean[alive] += grad.view_as(part.x)
                found = corner(part.x, mean[alive], int(task.budget)).flatten(1)
                current = current.clone()
                current[alive] = found
                reached = margins_of(self, part, found)
                better = reached > margins[alive]
                best[alive[better]], margins[alive[better]] = found[better], reached[better]
        return best

    def _sigma_zero(self, task: Task) -> Tensor:
        """Least number of pixels that changes the answer; its attack stops at an image once they are few enough."""
        found = sigma_zero(task.oracle, task.x, task.y, MORE_STEPS * task.effort.steps, enough=task.budget)
        few = changed(found, task.x) <= task.budget
        return torch.where(few.view(-1, 1, 1, 1), found, task.x).flatten(1)

    def _sparse_rs(self, task: Task) -> Tensor:
        """Random corners at random pixels; a falling share of them is swapped, and kept if the margin rises."""
        n, (height, width) = len(task.x), task.x.shape[2:]
        most, queries = min(int(task.budget), height * width), MORE_QUERIES * task.effort.queries
        if not most:
            return task.x.flatten(1)
        ranks = uniform(task.generators, height * width, task.x)
        places = ranks.argsort(dim=1)  # the first ``most`` of them are changed
        colours = _colours(task, most)
        best = _painted(task.x, places[:, :most], colours)
        margins = margins_of(self, task, best)
        for query in range(1, queries):
            alive = (margins <= 0).nonzero().squeeze(1)
            if not len(alive):
                break
            part = task.rows(alive)
            many = min(max(round(SWAPPED * most * _share(query / queries)), 1), height * width - most)
            tried, paint = _swapped(part, places[alive], colours[alive], most, many)
            painted = _painted(part.x, tried[:, :most], paint)
            found = margins_of(self, part, painted)
            better = found >= margins[alive]
            rows = alive[better]
            places[rows], colours[rows] = tried[better], paint[better]
            best[rows], margins[rows] = painted[better], found[better]
        return best[:n]


def _towards(target: Tensor) -> Loss:
    return lambda logits, y: losses.margin_targeted(logits, y, target)


def _corner_cost(effort: Effort) -> float:
    return effort.steps * 1.5


def _sigma_cost(effort: Effort) -> float:
    return float(MORE_STEPS * effort.steps)


def _query_cost(effort: Effort) -> float:
    return MORE_QUERIES * effort.queries / 2


def _share(done: float) -> float:
    """The paper's schedule: halved again and again, slower towards the end."""
    return 0.5 ** sum(done > limit for limit in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))


def _colours(task: Task, count: int) -> Tensor:
    channels = task.x.shape[1]
    return (uniform(task.generators, channels * count, task.x) > 0.5).to(task.x).view(-1, channels, count)


def _painted(x: Tensor, places: Tensor, colours: Tensor) -> Tensor:
    flat = x.flatten(2).clone()
    return flat.scatter_(2, places[:, None].expand_as(colours), colours).flatten(1)


def _swapped(task: Task, places: Tensor, colours: Tensor, most: int, many: int) -> tuple[Tensor, Tensor]:
    """Give ``many`` changed pixels back and change as many others; if none is left, only colours change."""
    if many < 1:
        return places, torch.where(uniform(task.generators, most, task.x)[:, None] < 0.3, _colours(task, most), colours)
    out = uniform(task.generators, most, task.x).argsort(dim=1)[:, :many]
    into = most + uniform(task.generators, places.shape[1] - most, task.x).argsort(dim=1)[:, :many]
    tried, paint = places.clone(), colours.clone()
    tried.scatter_(1, out, places.gather(1, into)).scatter_(1, into, places.gather(1, out))
    fresh = _colours(task, many)
    paint.scatter_(2, out[:, None].expand_as(fresh), fresh)
    return tried, paint


KIND = L0()
