"""A square patch of any content at any place (Brown et al., arXiv:1712.09665; Rao et al., arXiv:2005.02313).

Starts of the gradient attack draw their places; Sparse-RS (Croce et al., arXiv:2006.12834) moves the patch too.
"""

import math

import torch
from torch import Tensor, nn

from robustctl.errors import RequestError
from robustctl.perturbations.base import Effort, Family, Task, uniform
from robustctl.perturbations.boxed import Boxed, ascent, margins_of

MORE_STARTS, MORE_QUERIES = 3, 2
"""Times the effort's: each start has a place of its own (E-AT takes 10 starts)."""
MOVES = 0.2
"""Share of the queries that move the patch."""


class Patch(Boxed):
    """Parameters: first row and column, then the content, channel by channel."""

    unit = "pixels along a side"
    highest = 4096.0
    whole = True
    usual = "5"
    usual_digits = "2"
    source = "Rao et al., arXiv:2005.02313, and Croce et al., arXiv:2006.12834; budget of E-AT (appendix D)"

    def require(self, shape: tuple[int, int, int], budget: float) -> None:
        """A patch fits into the image."""
        if budget > min(shape[1:]):
            raise RequestError(f"threat patch:{budget:g}: the images have only {min(shape[1:])} pixels along a side")

    def families(self) -> dict[str, Family]:
        """APGD in the content, then Sparse-RS."""
        return {
            "ascent": Family(self._ascent, lambda e: MORE_STARTS * e.restarts * (e.steps + 1.5), True),
            "sparse-rs": Family(self._search, lambda e: MORE_QUERIES * e.queries / 2, False, True),
        }

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The box holds the places at which the patch is whole, and [0,1]."""
        side = int(budget)
        high = x.new_ones(2 + x.shape[1] * side * side)
        high[0], high[1] = x.shape[2] - side, x.shape[3] - side
        return torch.zeros_like(high), high

    def start(self, task: Task) -> Tensor:
        """A random place and random content."""
        low, high = self.bounds(task.x, task.budget)
        drawn = uniform(task.generators, len(low), task.x)
        places = torch.minimum((drawn[:, :2] * (high[:2] + 1)).floor(), high[:2])
        return torch.cat([places, drawn[:, 2:]], dim=1)

    def movable(self, z: Tensor) -> Tensor:
        """The place stays as it was drawn."""
        free = torch.ones_like(z)
        free[:, :2] = 0
        return free

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """The side is within the budget, the place is whole and inside the image, the content is in [0,1]."""
        side = _side(x, z)
        last = x.new_tensor([x.shape[2] - side, x.shape[3] - side])
        places, content = z[:, :2], z[:, 2:]
        whole = ((places == places.round()) & (places >= 0) & (places <= last)).all(dim=1)
        return whole & ((content >= 0) & (content <= 1)).all(dim=1) & (side <= budget)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Paste the patch."""
        side = _side(x, z)
        if not side:
            return x + 0 * z.sum()
        content = z[:, 2:].view(len(x), x.shape[1], side, side)
        rows, inside_rows = _offsets(z[:, 0], x.shape[2], side)
        columns, inside_columns = _offsets(z[:, 1], x.shape[3], side)
        spread = content.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, side))
        spread = spread.gather(3, columns[:, None, None].expand(-1, x.shape[1], x.shape[2], -1))
        return torch.where((inside_rows[:, :, None] & inside_columns[:, None])[:, None], spread, x)

    def _ascent(self, task: Task) -> Tensor:
        effort = task.effort
        more = Effort(effort.steps, MORE_STARTS * effort.restarts, effort.queries)
        return ascent(self, Task(task.oracle, task.x, task.y, task.budget, more, task.generators))

    def _search(self, task: Task) -> Tensor:
        """Set a random window of the patch to a random colour, or move the patch; keep what raises the margin."""
        best = self.start(task)
        best[:, 2:] = best[:, 2:].round()
        margins = margins_of(self, task, best)
        queries, side = MORE_QUERIES * task.effort.queries, int(task.budget)
        for query in range(1, queries if side else 1):
            alive = (margins <= 0).nonzero().squeeze(1)
            if not len(alive):
                break
            part = task.rows(alive)
            tried = self._changed(part, best[alive], 1 - query / queries)
            found = margins_of(self, part, tried)
            better = found >= margins[alive]
            best[alive[better]], margins[alive[better]] = tried[better], found[better]
        return best

    def _changed(self, task: Task, z: Tensor, left: float) -> Tensor:
        """One move or one window each; both shrink as ``left`` falls from 1 to 0."""
        x, side = task.x, int(task.budget)
        draws = uniform(task.generators, 6 + x.shape[1], x)
        _, high = self.bounds(x, task.budget)
        reach = 1 + left * high[:2]
        moved = (z[:, :2] + ((2 * draws[:, :2] - 1) * reach).round()).clamp(min=0)
        moved = torch.minimum(moved, high[:2])
        window = max(round(left * side), 1)
        rows, columns = (_window(draws[:, i], side, window) for i in (2, 3))
        chosen = (rows[:, :, None] & columns[:, None])[:, None]
        colour = draws[:, 6:].round()[:, :, None, None]
        content = z[:, 2:].view(len(z), x.shape[1], side, side)
        painted = torch.where(chosen, colour, content).flatten(1)
        move = draws[:, 4:5] < MOVES
        return torch.cat([torch.where(move, moved, z[:, :2]), torch.where(move, z[:, 2:], painted)], dim=1)


def _side(x: Tensor, z: Tensor) -> int:
    return math.isqrt((z.shape[1] - 2) // x.shape[1])


def _offsets(first: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """Row of the patch at each row of the image (n, size), cut to the patch, and whether it lies in it."""
    offsets = torch.arange(size, device=first.device) - first.detach().round().long()[:, None]
    return offsets.clamp(0, side - 1), (offsets >= 0) & (offsets < side)


def _window(draw: Tensor, side: int, window: int) -> Tensor:
    first = (draw * (side - window + 1)).long()[:, None]
    places = torch.arange(side, device=draw.device)
    return (places >= first) & (places < first + window)


KIND = Patch()
