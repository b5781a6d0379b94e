"""Kinds whose parameters lie in a box, each in its own interval: flows, colour tables, weather.

Two attacks serve them all: APGD in the parameters (arXiv:2003.01690, with the step sizes of its l_inf version), and a
random search that needs no gradient, so that a masked gradient does not pass for robustness.
"""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.errors import RequestError
from robustctl.oracle import Loss, Oracle
from robustctl.perturbations.base import TOLERANCE, Effort, Family, Generators, Kind, Limit, Task, find, names, uniform

FIRST_STEP = 0.5
"""The first step as a share of the box's width. APGD's first step is twice the radius; here it is half of that, since
parts of a box are one-sided."""
MOMENTUM = 0.75
WINDOW, SHORTER, SHORTEST = 0.22, 0.03, 0.06
"""Shares of the steps: of the first window between two checks, what each next one loses, and the least."""
MIN_RISE = 0.75
LOSSES = (losses.probability_margin, losses.margin, losses.ce)
"""The losses of the starts in turn."""


class Boxed(Kind):
    """A kind with parameters between ``low`` and ``high``."""

    @abstractmethod
    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each parameter, (k,) or (n, k); both in the type of x."""

    def start(self, task: Task) -> Tensor:
        """Random parameters (n, k): uniform in the box."""
        low, high = self.bounds(task.x, task.budget)
        return low + (high - low) * uniform(task.generators, low.shape[-1], task.x)

    def project(self, z: Tensor, x: Tensor, budget: float) -> Tensor:
        """The nearest parameters inside the budget."""
        low, high = self.bounds(x, budget)
        return torch.maximum(torch.minimum(z, high), low)

    def movable(self, z: Tensor) -> Tensor:
        """1 for parameters that attacks may change, 0 for those that stay as they were drawn."""
        return torch.ones_like(z)

    def step(self, grad: Tensor, x: Tensor, budget: float) -> Tensor:
        """The step that a linear loss would like best, as long as the box is wide."""
        low, high = self.bounds(x, budget)
        return grad.sign() * (high - low)

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """Every parameter is in its interval, up to a relative tolerance of its ends."""
        low, high = self.bounds(x, budget)
        slack = TOLERANCE * torch.maximum(low.abs(), high.abs())
        return ((z >= low - slack) & (z <= high + slack)).all(dim=1)

    def families(self) -> dict[str, Family]:
        """APGD, then random search."""
        return {
            "ascent": Family(lambda task: ascent(self, task), lambda e: e.restarts * (e.steps + 1.5), True),
            "search": Family(lambda task: search(self, task), lambda e: e.queries / 2, False),
        }


@dataclass(frozen=True)
class BoxedLimit(Limit):
    """A kind with parameters in a box, and its budget."""

    @classmethod
    def parse(cls, written: str, dataset: str = "") -> Self:
        """Read ``stadv:0.8``.

        Raises:
            RequestError: no such kind, a budget outside its range, or a kind without a box.
        """
        limit = super().parse(written, dataset)
        if not isinstance(limit.kind, Boxed):
            boxed = [name for name in names() if isinstance(find(name), Boxed)]
            raise RequestError(f"threat {limit.name} is not trained on; the kinds are {', '.join(boxed)}")
        return limit

    def pgd(
        self,
        oracle: Oracle,
        x: Tensor,
        y: Tensor,
        generators: Generators,
        *,
        steps: int,
        loss: Loss = losses.ce,
    ) -> Tensor:
        """Take ``steps`` steps uphill in the parameters, from a random start, for training.

        Args:
            x: images (n, c, h, w) in [0,1].
            y: what ``loss`` compares the logits with: labels (n,), or numbers (n, k).
            generators: one per image.
            steps: their lengths add up to 2.5 times half the box, as is usual in a ball; 0 leaves the start.

        Returns:
            Images (n, c, h, w) in [0,1].

        Raises:
            RequestError: such images cannot have this threat.
        """
        kind = self.kind
        assert isinstance(kind, Boxed)
        kind.require((x.shape[1], x.shape[2], x.shape[3]), self.budget)
        task = Task(oracle, x, y, self.budget, Effort(steps, 1, 0), generators)
        z = kind.start(task)
        for _ in range(steps):
            _, _, grad = gradient(kind, task, z, loss)
            move = kind.step(grad * kind.movable(z), x, self.budget)
            z = kind.project(z + 1.25 / steps * move, x, self.budget)
        return kind.render(x, z)


@dataclass
class State:
    """Where the attacks on n images stand; ``row`` says whose they are."""

    row: Tensor
    z: Tensor
    old: Tensor
    best: Tensor
    best_grad: Tensor
    value: Tensor  # best loss
    last: Tensor
    size: Tensor  # of the next step, as a share of ``FIRST_STEP``
    rises: Tensor
    at_check: Tensor
    halved: Tensor

    def select(self, kept: Tensor) -> "State":
        """The rows at which ``kept`` (n,) is True."""
        return State(*[getattr(self, field.name)[kept] for field in fields(self)])


def ascent(kind: Boxed, task: Task) -> Tensor:
    """Raise a loss in the parameters from several random starts; an image leaves when it is broken.

    Returns:
        Parameters (n, k) that break each image, else the ones with the largest margin at a start's end.
    """
    found = kind.start(task)
    margins = margins_of(kind, task, found)
    for restart in range(task.effort.restarts):
        alive = (margins <= 0).nonzero().squeeze(1)
        if not len(alive):
            break
        part = task.rows(alive)
        start = found[alive] if restart == 0 else kind.start(part)
        reached, values = _climb(kind, part, start, LOSSES[restart % len(LOSSES)])
        better = values > margins[alive]
        found[alive[better]], margins[alive[better]] = reached[better], values[better]
    return found


def _climb(kind: Boxed, task: Task, start: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """One start; returns parameters and the margins of the model itself there."""
    n, steps = len(start), task.effort.steps
    reached, margins = start.clone(), torch.full((n,), -torch.inf, device=start.device)
    low = margins.clone()
    ones = torch.ones_like(low)
    state = State(
        torch.arange(n, device=start.device),
        start,
        start.clone(),
        start.clone(),
        torch.zeros_like(start),
        low,
        low.clone(),
        ones,
        torch.zeros_like(low),
        low.clone(),
        torch.ones_like(low, dtype=torch.bool),
    )
    window = due = max(int(WINDOW * steps), 1)
    for step in range(steps + 1):
        part = task.rows(state.row)
        logits, values, grad = gradient(kind, part, state.z, loss)
        wrong = losses.margin(logits, part.y) > 0
        if wrong.any():
            exact = margins_of(kind, task.rows(state.row[wrong]), state.z[wrong], exact=True)
            rows = state.row[wrong][exact > 0]
            reached[rows], margins[rows] = state.z[wrong][exact > 0], exact[exact > 0]
            wrong[wrong.clone()] = exact > 0
        state.value = torch.where(values > state.value, values, state.value)
        better = values >= state.value
        state.best[better], state.best_grad[better] = state.z[better], grad[better]
        state.rises += (values > state.last) & (step > 0)
        state.last = values
        if step == 0:
            state.at_check = values.clone()
        if step == due:
            grad = _check(state, window, grad)
            window = max(window - max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1))
            due += window
        if wrong.any():
            state, grad = state.select(~wrong), grad[~wrong]
        if not len(state.row) or step == steps:
            break
        _move(kind, task, state, grad, first=step == 0)
    if len(state.row):
        reached[state.row] = state.best
        margins[state.row] = margins_of(kind, task.rows(state.row), state.best)
    return reached, margins


def _check(state: State, window: int, grad: Tensor) -> Tensor:
    """Halve the step of a row that oscillates or stalls, and take it back to its best point (APGD, Sec. 3.1)."""
    halve = (state.rises <= MIN_RISE * window) | (~state.halved & (state.value <= state.at_check))
    state.size = torch.where(halve, state.size / 2, state.size)
    state.z = torch.where(halve[:, None], state.best, state.z)
    state.halved, state.at_check = halve, state.value.clone()
    state.rises = torch.zeros_like(state.rises)
    return torch.where(halve[:, None], state.best_grad, grad)


def _move(kind: Boxed, task: Task, state: State, grad: Tensor, *, first: bool) -> None:
    x = task.x[state.row]
    step = kind.step(grad * kind.movable(state.z), x, task.budget)
    plain = kind.project(state.z + FIRST_STEP * state.size[:, None] * step, x, task.budget)
    mixed = plain if first else state.z + MOMENTUM * (plain - state.z) + (1 - MOMENTUM) * (state.z - state.old)
    state.old, state.z = state.z, kind.project(mixed, x, task.budget)


def gradient(kind: Kind, task: Task, z: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, classes), losses (n,) and their gradient in the parameters (n, k)."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        images = kind.render(task.x, z)
        logits, values, upstream = task.oracle.loss_and_grad(images, task.y, loss)
        (grad,) = torch.autograd.grad(images, z, upstream)
    return logits, values, grad.nan_to_num(0.0)


def margins_of(kind: Kind, task: Task, z: Tensor, *, exact: bool = False) -> Tensor:
    """Margins (n,) at the rendered images; they are above 0 only if the model itself agrees."""
    images = kind.render(task.x, z).detach()
    if exact:
        return losses.margin(task.oracle.exact_for(images, task.y), task.y)
    margins = losses.margin(task.oracle.logits(images), task.y)
    if len(wrong := (margins > 0).nonzero().squeeze(1)):
        margins[wrong] = losses.margin(task.oracle.exact_for(images[wrong], task.y[wrong]), task.y[wrong])
    return margins


def search(kind: Boxed, task: Task) -> Tensor:
    """Change a random part of the parameters, keep what raises the margin (as Square does with pixels).

    The first quarter of the queries draws afresh; then the changed share falls from a half to a hundredth.
    """
    best = kind.start(task)
    margins = margins_of(kind, task, best)
    queries = task.effort.queries
    for query in range(1, queries):
        alive = (margins <= 0).nonzero().squeeze(1)
        if not len(alive):
            break
        part = task.rows(alive)
        drawn = kind.start(part)
        if query >= queries // 4:
            share = 0.5 * 0.02 ** (query / queries)
            chosen = (uniform(part.generators, drawn.shape[1], drawn) < share) & (kind.movable(best[alive]) > 0)
            drawn = kind.project(torch.where(chosen, drawn, best[alive]), part.x, part.budget)
        found = margins_of(kind, part, drawn)
        better = found > margins[alive]
        best[alive[better]], margins[alive[better]] = drawn[better], found[better]
    return best
