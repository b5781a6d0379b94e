"""APGD, arXiv:2003.01690 (l_inf, l_2) and arXiv:2103.01208 (l_1, larger radii).

The whole state of the attack is per row (``Rows``), and ``advance`` moves every row by one gradient evaluation,
whatever stage each is in. ``apgd`` below advances all rows together; ``evaluation.row_scheduler`` puts a new row in the
place of one that has ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack, Settings
from robustctl.devices import upload
from robustctl.geometry import Generators
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Norm, Threat

MOMENTUM = 0.75
"""Weight of the new step against the last movement (arXiv:2003.01690, Sec. 3.1)."""
MIN_RISE = 0.75
"""The step is halved if the loss rose in at most this share of a window's steps."""
SPARSITY = 0.2
"""First share of the pixels that an l_1 step changes (arXiv:2103.01208, Sec. 3.2)."""
SPARSER = 1.5
"""The l_1 step changes this many times fewer pixels than the best point; its size falls by the same factor."""
NOISE = 1e-5
"""A pixel that moved by less than this share of the l_1 radius counts as unmoved: projections leave roundings."""
L1_STEP_RANGE = 10.0
"""The l_1 step never falls below its first size divided by this."""


@dataclass(frozen=True)
class Schedule:
    """Stages of one attack, any number of them: radii as multiples of eps, and the gradient steps spent at each.

    A stage starts at the best point of the stage before it, projected onto its own ball. The last stage's ball is the
    threat's own.

    Raises:
        ValueError: no stage, lists of two lengths, a factor or a number of steps that is not positive, or a last
            factor other than 1.
    """

    factors: tuple[float, ...]
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.steps) or not self.steps or self.factors[-1] != 1:
            raise ValueError(f"a schedule has one number of steps per factor and ends with factor 1, not {self}")
        if min(self.factors) <= 0 or min(self.steps) < 1:
            raise ValueError(f"a schedule's factors and steps are positive, unlike {self}")

    @classmethod
    def plain(cls, steps: int) -> "Schedule":
        """One stage, in the ball itself."""
        return cls((1.0,), (steps,))

    @classmethod
    def larger_radii(cls, steps: int) -> "Schedule":
        """Balls of 3, 2 and 1 times the radius, with 30, 30 and 40 % of the steps (arXiv:2103.01208, Sec. 3.3).

        Fewer than 3 steps are too few for three stages; they all go to the last one.
        """
        early = math.ceil(0.3 * steps)
        last = steps - 2 * early
        return cls((3.0, 2.0, 1.0), (early, early, last)) if last > 0 else cls.plain(steps)

    def evaluations(self) -> int:
        """Gradient evaluations that a row takes: one per step, and one at the last point of every stage."""
        return sum(self.steps) + len(self.steps)


@dataclass
class Rows:
    """State of n attacks; row i of every tensor belongs to attack i, and to no other."""

    x: Tensor  # (n, c, h, w) images
    x_adv: Tensor  # next point to evaluate
    x_old: Tensor  # the point before it, for the momentum
    x_best: Tensor  # point of highest loss in this stage
    grad_best: Tensor  # gradient there
    best: Tensor  # (n,) loss there
    last: Tensor  # loss at the point evaluated last
    eps: Tensor  # radius of this stage
    stage: Tensor  # index of this stage
    step: Tensor  # evaluations in this stage
    step_size: Tensor
    window: Tensor  # steps between two checks of the step size
    since: Tensor  # steps since the last check
    rises: Tensor  # of these, how many raised the loss
    best_at_check: Tensor  # best loss at the last check
    halved: Tensor  # was the step size halved then
    sparsity: Tensor  # l_1: share of the pixels that a step changes
    support: Tensor  # l_1: pixels that the best point changed at the last check

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: Tensor | slice) -> "Rows":
        """Rows at ``index`` (long or boolean)."""
        return Rows(*[getattr(self, field.name)[index] for field in fields(self)])

    def extend(self, rows: "Rows") -> "Rows":
        """These rows followed by ``rows``."""
        return Rows(*[torch.cat([getattr(self, field.name), getattr(rows, field.name)]) for field in fields(self)])

    def put(self, index: Tensor, rows: "Rows") -> None:
        """Overwrite the rows at ``index`` in place."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(rows, field.name)


class Apgd:
    """The attack for one norm and one schedule; holds constants only, the state is in ``Rows``."""

    def __init__(self, threat: Threat, schedule: Schedule, sparsity: float = SPARSITY) -> None:
        self.threat = threat
        self.norm: Norm = threat.norm
        self.schedule = schedule
        self.sparsity = sparsity
        # Windows of arXiv:2003.01690, Eq. 2: 22 % of the steps, each next one 3 % shorter, never below 6 %. They follow
        # the steps of their own stage, since each stage is an attack of its own.
        self.window = _shares(schedule, 0.04 if self.norm == "l1" else 0.22)
        self.shorter, self.shortest = _shares(schedule, 0.03), _shares(schedule, 0.06)
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    def start(
        self, x: Tensor, generator: Generators | None, start: Tensor | None = None, radii: Tensor | None = None
    ) -> Rows:
        """Rows at their first point: random with a generator, else ``start``, else the image itself.

        Args:
            radii: of the rows (n,), instead of the threat's; for one stage only.
        """
        radius = self.threat.eps * self.schedule.factors[0] if radii is None else radii
        if generator is not None:
            x_adv = geometry.random_start(x, self.norm, radius, generator)
        else:
            x_adv = x.clone() if start is None else geometry.project(start, x, self.norm, radius)
        eps = torch.full_like(x[:, 0, 0, 0], 1.0) * radius
        sparsity, support = torch.full_like(eps, self.sparsity), torch.full_like(eps, x[0].numel())
        if self.norm == "l1" and len(self.schedule.steps) > 1:
            support = _support(x_adv, x, eps)
            sparsity = support / x[0].numel() / SPARSER
        return self._stage(x, x_adv, eps, torch.zeros_like(eps, dtype=torch.long), sparsity, support)

    def _table(self, name: str, values: Sequence[float], device: torch.device) -> Tensor:
        """Numbers of the stages on the device, brought there once: each time the host would wait for it."""
        if (name, device) not in self._tables:
            self._tables[name, device] = upload(torch.tensor(values), device)
        return self._tables[name, device]

    def _stage(self, x: Tensor, x_adv: Tensor, eps: Tensor, stage: Tensor, sparsity: Tensor, support: Tensor) -> Rows:
        """Rows at the first point of a stage."""
        low = torch.full_like(eps, -torch.inf)
        zero = torch.zeros_like(stage)
        return Rows(
            x=x,
            x_adv=x_adv,
            x_old=x_adv.clone(),
            x_best=x_adv.clone(),
            grad_best=torch.zeros_like(x),
            best=low,
            last=low.clone(),
            eps=eps,
            stage=stage,
            step=zero,
            step_size=eps * (1.0 if self.norm == "l1" else 2.0),
            window=self._table("window", self.window, x.device)[stage],
            since=zero.clone(),
            rises=zero.clone(),
            best_at_check=low.clone(),
            halved=torch.ones_like(stage, dtype=torch.bool),
            sparsity=sparsity,
            support=support,
        )

    def advance(self, rows: Rows, values: Tensor, grad: Tensor) -> None:
        """Take in the loss (n,) and gradient at ``rows.x_adv``, and move there each row that has steps left.

        A row whose stage has ended is left at its stage's end; see ``ended`` and ``next_stage``.
        """
        self._record(rows, values, grad)
        reset = self._check(rows)
        x_adv = _pick(reset, rows.x_best, rows.x_adv)
        grad = _pick(reset, rows.grad_best, grad)
        step = _l1_step if self.norm == "l1" else _momentum_step
        rows.x_adv, rows.x_old = step(rows, x_adv, grad, self.norm), x_adv
        rows.step += 1

    def _record(self, rows: Rows, values: Tensor, grad: Tensor) -> None:
        better = values > rows.best
        rows.x_best = _pick(better, rows.x_adv, rows.x_best)
        rows.grad_best = _pick(better, grad, rows.grad_best)
        rows.best = torch.where(better, values, rows.best)
        first = rows.step == 0
        rows.best_at_check = torch.where(first, values, rows.best_at_check)
        rows.rises += (values > rows.last) & ~first
        rows.since += ~first
        rows.last = values

    def _check(self, rows: Rows) -> Tensor:
        """At the end of its window, adapt a row's step size; True (n,) if the row goes on from its best point."""
        due = rows.since == rows.window
        rows.since = rows.since.masked_fill(due, 0)
        return self._check_sparsity(rows, due) if self.norm == "l1" else self._check_rises(rows, due)

    def _check_rises(self, rows: Rows, due: Tensor) -> Tensor:
        """Halve the step if the loss oscillates, or if it has not improved since an unhalved check."""
        oscillates = rows.rises <= rows.window * MIN_RISE
        stalls = ~rows.halved & (rows.best <= rows.best_at_check)
        halve = due & (oscillates | stalls)
        rows.step_size = torch.where(halve, rows.step_size / 2, rows.step_size)
        rows.halved = torch.where(due, halve, rows.halved)
        rows.best_at_check = torch.where(due, rows.best, rows.best_at_check)
        shorter = self._table("shorter", self.shorter, due.device)[rows.stage]
        shortest = self._table("shortest", self.shortest, due.device)[rows.stage]
        rows.window = torch.where(due, torch.maximum(rows.window - shorter, shortest), rows.window)
        rows.rises = rows.rises.masked_fill(due, 0)
        return halve

    def _check_sparsity(self, rows: Rows, due: Tensor) -> Tensor:
        """Adapt the l_1 step's sparsity to the best point's; start the step size anew if the point became sparser."""
        support = _support(rows.x_best, rows.x, rows.eps)
        sparser = due & (support < 0.95 * rows.support)
        largest = rows.eps
        smaller = (rows.step_size / SPARSER).clamp_min(largest / L1_STEP_RANGE)
        size = torch.where(sparser, largest, smaller)
        rows.step_size = torch.where(due, size, rows.step_size)
        rows.sparsity = torch.where(due, support / rows.x[0].numel() / SPARSER, rows.sparsity)
        rows.support = torch.where(due, support, rows.support)
        return sparser

    def ended(self, rows: Rows) -> Tensor:
        """Rows (n,) that have evaluated the last point of their stage."""
        return rows.step > self._table("steps", self.schedule.steps, rows.step.device)[rows.stage]

    def next_stage(self, rows: Rows) -> Rows:
        """The same rows at the first point of their next stage: the best point, projected onto the smaller ball."""
        stage = rows.stage + 1
        eps = self.threat.eps * self._table("factors", self.schedule.factors, rows.eps.device).to(rows.eps)[stage]
        x_adv = geometry.project(rows.x_best, rows.x, self.norm, eps)
        support = _support(x_adv, rows.x, eps)
        return self._stage(rows.x, x_adv, eps, stage, support / rows.x[0].numel() / SPARSER, support)


def apgd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int | Schedule,
    loss: Loss = losses.ce,
    generator: Generators | None = None,
    start: Tensor | None = None,
    sparsity: float = SPARSITY,
) -> Tensor:
    """Maximise a loss in ball and box with APGD, arXiv:2003.01690 and arXiv:2103.01208.

    Args:
        x: images (n, c, h, w) in [0,1].
        y: labels, handed to ``loss`` as they are.
        steps: gradient steps >= 1, or several stages of them; a stage's last point is evaluated too.
        generator: random start; without it the attack starts at ``start`` (n, c, h, w), or at ``x``.
        sparsity: l_1's first share of changed pixels, in (0,1].

    Returns:
        The points of highest loss, inside ball and box in float64.
    """
    attack = Apgd(threat, Schedule.plain(steps) if isinstance(steps, int) else steps, sparsity)
    rows = attack.start(x, generator, start)
    n_stages = len(attack.schedule.steps)
    for stage, stage_steps in enumerate(attack.schedule.steps):
        for _ in range(stage_steps):
            _, values, grad = oracle.loss_and_grad(rows.x_adv, y, loss)
            attack.advance(rows, values, grad.contiguous())
        # The last point of a stage needs its loss alone: no step follows.
        final = loss(oracle.logits(rows.x_adv), y)
        rows.x_best = _pick(final > rows.best, rows.x_adv, rows.x_best)
        if stage < n_stages - 1:
            rows = attack.next_stage(rows)
    return geometry.shrink_inside(rows.x_best, x, threat.norm, threat.eps)


def _shares(schedule: Schedule, share: float) -> list[int]:
    """This share of each stage's steps, at least 1."""
    return [max(int(share * steps), 1) for steps in schedule.steps]


def _momentum_step(rows: Rows, x_adv: Tensor, grad: Tensor, norm: Norm) -> Tensor:
    """A projected step mixed with the last movement (arXiv:2003.01690, Eq. 1); none at a stage's first step."""
    plain = x_adv + _wide(rows.step_size) * geometry.steepest_step(grad, norm)
    plain = geometry.project(plain, rows.x, norm, rows.eps)
    weight = torch.where(rows.step == 0, 1.0, MOMENTUM).to(x_adv.dtype)
    mixed = torch.lerp(x_adv, plain, _wide(weight)) + _wide(1 - weight) * (x_adv - rows.x_old)
    return geometry.project(mixed, rows.x, norm, rows.eps)


def _l1_step(rows: Rows, x_adv: Tensor, grad: Tensor, norm: Norm) -> Tensor:
    """A sparse step, projected (arXiv:2103.01208, Alg. 1)."""
    step = geometry.steepest_step(grad, norm, rows.sparsity)
    return geometry.project(x_adv + _wide(rows.step_size) * step, rows.x, norm, rows.eps)


def _support(x_adv: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Pixels that differ by more than rounding, (n,) float."""
    size = (x_adv - x).flatten(1).abs_()
    return torch.gt(size, NOISE * eps[:, None], out=torch.empty_like(size)).sum(1)


def _pick(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of ``a`` in the rows (n,) that are True, else of ``b``, all finite.

    A lerp by 0 or 1 is exact, and on a CPU it is four times as fast as a selection by a mask of bool.
    """
    return torch.lerp(b, a, _wide(rows.to(a.dtype)))


def _wide(rows: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1)."""
    return rows.view(-1, 1, 1, 1)


def _run(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, settings: Settings) -> Tensor:
    return apgd(oracle, x, y, threat, steps=settings.steps, loss=settings.loss, generator=settings.generators)


# An evaluation runs it by rows, with restarts, targets and schedules: see evaluation.row_scheduler.
ATTACK = Attack(_run, cost=1.0)
