"""Runs one attack family on many points and keeps the batch full.

An *attempt* is one run of the family (a restart, a target) at one point. A point that is broken leaves at once with all
its attempts, and the next attempt takes the free row, so that the batch keeps its size as long as there are attempts to
begin. Then it shrinks while the last attempts end: each family of each norm has such a tail of its own. The attack's
state and its randomness belong to the row, so what happens to a point does not depend on the rows around it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustctl import geometry, losses, seeds
from robustctl.attacks.apgd import Apgd, Rows, Schedule
from robustctl.data import ImageData
from robustctl.devices import upload
from robustctl.errors import RunError
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.protocols import Family
from robustctl.oracle import Loss, Oracle
from robustctl.pieces import Pieces
from robustctl.threats import Threat

SHRINK = 0.8
"""Free rows that no attempt can fill are dropped when at most this share of the batch is live. They are not dropped one
by one, because every new batch shape costs the libraries below some preparation."""
LOSSES: dict[str, Loss] = {
    "ce": losses.ce,
    "dlr": losses.dlr,
    "margin": losses.margin,
    "probability_margin": losses.probability_margin,
}
CLOSE = 2.0**-7
"""A point survived closely if its best attempt's margin is above minus this share of its largest logit. Networks in
bf16 err by about that much."""


@dataclass(frozen=True)
class FamilyRun:
    """One attack family in one norm on a data set, with the seed of its attacks.

    ``batch_size`` is the number of rows of a gradient evaluation, >= 1. They go through the model in pieces if memory
    is short.
    """

    oracle: Oracle
    data: ImageData
    threat: Threat
    family: Family
    seed: int
    batch_size: int

    @property
    def image(self) -> Tensor:
        """The first image, (1, c, h, w), on the model's device."""
        return self.data.images([0]).to(self.oracle.device)

    def pieces(self, model: nn.Module) -> Pieces:
        """Pieces of a batch that go through this model at once."""
        return Pieces(min(self.batch_size, fitting(model, self.image)))


@dataclass(frozen=True)
class Finished:
    """Points that are broken, or whose budget is spent (then ``x_adv`` is their best attempt).

    ``x_adv`` is (n, c, h, w) float32 on the CPU, inside ball and box. It claims nothing: the referee judges.
    """

    positions: list[int]
    x_adv: Tensor


@dataclass(eq=False)
class _Point:
    position: int
    index: int  # in its split, for the random seeds
    x: Tensor
    y: int
    targets: list[int]  # target class of each attempt, -1 if the loss has none
    next_attempt: int = 0
    running: int = 0
    survived: int = 0  # attempts that ended without breaking it
    best_margin: float = -float("inf")
    best: Tensor | None = None
    close: bool = False  # is the best margin just below 0

    @property
    def has_attempts(self) -> bool:
        return self.next_attempt < len(self.targets)


@dataclass(frozen=True)
class _Attempt:
    point: _Point
    number: int


class _Ready:
    """Begun points that may begin another attempt, by how many they have running.

    Placing a point and picking one take a time that does not grow with the number of points.
    """

    def __init__(self) -> None:
        self.by_running: list[OrderedDict[_Point, None]] = []

    def place(self, point: _Point, side_by_side: bool) -> None:
        """Put a point into its present group. ``side_by_side``: its attempts may run beside each other from the
        start."""
        self.drop(point)
        if point.has_attempts and (not point.running or side_by_side or point.survived):
            while len(self.by_running) <= point.running:
                self.by_running.append(OrderedDict())
            self.by_running[point.running][point] = None

    def drop(self, point: _Point) -> None:
        """Take a point out, if it is here."""
        for points in self.by_running:
            points.pop(point, None)

    def first(self) -> _Point | None:
        """The one with the fewest running attempts that has waited longest."""
        return next((next(iter(points)) for points in self.by_running if points), None)


class FullBatch:
    """The rows in flight, the attempt of each row, and the points that wait.

    Attributes:
        close: positions that survived proposals of low precision so closely that float32 could have broken them; filled
            by ``run``.

    Rows hold their images as (n, h, w, c), the order in which fast convolutions want them; no operation of the attack
    cares, and so no step has to reorder them.
    """

    rows: Rows
    y: Tensor  # (n,) label of each row
    target: Tensor  # (n,) target class of each row

    def __init__(self, run: FamilyRun, positions: Sequence[int]) -> None:
        self.oracle, self.data, self.threat, self.family = run.oracle, run.data, run.threat, run.family
        self.seed, self.batch_size = run.seed, run.batch_size
        self.pieces = run.pieces(run.oracle.attacked)
        self.attack = Apgd(run.threat, _schedule(run.family))
        self.waiting = deque(positions)
        self.fresh: deque[_Point] = deque()  # looked at, not begun
        self.ready = _Ready()
        self.attempts: list[_Attempt | None] = []  # of each row; None is a free row
        self.done: list[tuple[_Point, Tensor]] = []  # finished, not yet handed out
        self.close: list[int] = []

    def run(self) -> Iterator[Finished]:
        """Each point once, in the order in which they finish, but for those in ``close``."""
        while True:
            self.fill()
            if self.done:
                yield self.take_done()
            if not self.attempts:
                return
            self.step()

    def take_done(self) -> Finished:
        points, x_adv = zip(*self.done, strict=True)
        self.done = []
        return Finished([point.position for point in points], torch.stack(x_adv).cpu())

    def fill(self) -> None:
        """Begin attempts until the batch is full; if there are too few, let it shrink."""
        live = sum(attempt is not None for attempt in self.attempts)
        begun: list[_Attempt] = []
        while live + len(begun) < self.batch_size and (attempt := self._next_attempt()):
            begun.append(attempt)
        if begun:
            self._begin(begun)
        live += len(begun)
        if live == 0:
            self.attempts = []
        elif live <= SHRINK * len(self.attempts):
            self._shrink()

    def _next_attempt(self) -> _Attempt | None:
        """The attempt for the next free row; None if no attempt is left.

        A begun point that has no running attempt comes first, then a new point, then a begun point with other attempts
        running. Attempts run side by side only at points that have survived one (this family's first, or an untargeted
        family before a targeted one): elsewhere the first attempt mostly succeeds and the rest would be wasted.
        """
        point = self.ready.first()
        if point is None or point.running:
            point = self._new_point() or point
        if point is None:
            return None
        attempt = _Attempt(point, point.next_attempt)
        point.next_attempt += 1
        point.running += 1
        self._place(point)
        return attempt

    def _place(self, point: _Point) -> None:
        self.ready.place(point, side_by_side=self.family.targets > 0)

    def _new_point(self) -> _Point | None:
        while not self.fresh and self.waiting:
            self._look()
        return self.fresh.popleft() if self.fresh else None

    def _look(self) -> None:
        """Read the next points; those that are wrong without any attack are done."""
        # A whole batch at once: one pass tells which points are wrong already, and the targets of all others.
        positions = [self.waiting.popleft() for _ in range(min(self.batch_size, len(self.waiting)))]
        x, y = self.data.images(positions), self.data.y[torch.as_tensor(positions)]
        logits = self._exact(x.to(self.oracle.device)).cpu()
        targets = _targets(logits, y, self.family)
        wrong = losses.margin(logits, y) > 0
        for i, position in enumerate(positions):
            point = _Point(position, int(self.data.indices[position]), x[i], int(y[i]), targets[i])
            if wrong[i]:
                self.done.append((point, point.x))
            else:
                self.fresh.append(point)

    def _begin(self, begun: list[_Attempt]) -> None:
        """Put new rows into the free ones, and the rest behind them."""
        device = self.oracle.device
        x = _pixels_first(torch.stack([attempt.point.x for attempt in begun]).to(device))
        purpose = seeds.attack(self.threat.norm, self.family.name)
        # The seed knows the point's index in its split and the attempt's number, but no row: so a verdict does not
        # depend on the batch size, the order of the points, or the moment at which an earlier process was killed.
        generators = [seeds.generator(self.seed, purpose, attempt.point.index, attempt.number) for attempt in begun]
        new = self.attack.start(x, None if self.family.from_image else generators)
        y = torch.tensor([attempt.point.y for attempt in begun], device=device)
        target = torch.tensor([attempt.point.targets[attempt.number] for attempt in begun], device=device)
        if not self.attempts:
            self.rows, self.y, self.target, self.attempts = new, y, target, list(begun)
            return
        # Free rows are filled in place; only rows beyond them make the tensors longer, which copies the whole batch.
        free = [row for row, attempt in enumerate(self.attempts) if attempt is None][: len(begun)]
        filling, behind = slice(len(free)), slice(len(free), None)
        if free:
            index = torch.tensor(free, device=device)
            self.rows.put(index, new.select(filling))
            self.y[index], self.target[index] = y[filling], target[filling]
            for row, attempt in zip(free, begun[filling], strict=True):
                self.attempts[row] = attempt
        if len(begun) > len(free):
            self.rows = self.rows.extend(new.select(behind))
            self.y, self.target = torch.cat([self.y, y[behind]]), torch.cat([self.target, target[behind]])
            self.attempts += begun[behind]

    def _shrink(self) -> None:
        kept = [row for row, attempt in enumerate(self.attempts) if attempt]
        index = torch.tensor(kept, device=self.oracle.device)
        self.rows, self.y, self.target = self.rows.select(index), self.y[index], self.target[index]
        self.attempts = [self.attempts[row] for row in kept]

    def step(self) -> None:
        """One gradient evaluation for every row; rows that end are freed."""
        rows, evaluated = (
            self.rows,
            self.rows.x_adv,
        )  # kept: ``advance`` moves the rows on, and these logits are of here
        logits, values, grad = self._evaluate(evaluated)
        live = upload(torch.tensor([attempt is not None for attempt in self.attempts]), self.oracle.device)
        # Stages before the last one climb in larger balls: an image that is wrong there breaks nothing.
        counts = live & self.attack.last_stage(rows)
        wrong = counts & (losses.margin(logits, self.y) > 0)
        self.attack.advance(rows, values, grad)
        ended = live & self.attack.ended(rows)
        # The host waits for the device once, here, and goes by its own copy from now on.
        flags = torch.stack([live & ~values.isfinite(), wrong, ended & counts, ended & ~counts]).cpu()
        overflown, broken, over, staged = (flag.nonzero().squeeze(1) for flag in flags)
        if len(overflown):
            raise RunError(
                f"the loss is not finite under {self.family.name} on {self.threat}: the model's logits overflow"
            )
        self._judge(broken, evaluated)
        self._judge(over, rows.x_best)
        self._free(over)
        self._next_stage(staged)

    def _evaluate(self, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss and gradient, in as many passes as memory asks for; the state of the rows is not touched."""

        def work(piece: slice) -> tuple[Tensor, Tensor, Tensor]:
            x = _channels_first(x_adv[piece])
            return self.oracle.loss_and_grad(x, self.y[piece], self._loss(self.target[piece]))

        parts = zip(*self.pieces.run(work, len(x_adv)), strict=True)
        logits, values, grad = (torch.cat(part) if len(part) > 1 else part[0] for part in parts)
        return logits, values, _pixels_first(grad)

    def _exact(self, x: Tensor) -> Tensor:
        return torch.cat(self.pieces.run(lambda piece: self.oracle.exact(x[piece]), len(x)))

    def _loss(self, target: Tensor) -> Loss:
        if self.family.loss == "dlr_targeted":
            return lambda logits, y: losses.dlr_targeted(logits, y, target)
        return LOSSES[self.family.loss]

    def _judge(self, candidates: Tensor, x_adv: Tensor) -> None:
        """Look at these rows (m,) in full precision and strictly inside the ball; keep each point's best attempt."""
        if not len(candidates):
            return
        index = upload(candidates, self.oracle.device)
        # The attack computes in low precision and walks along the sphere. The referee forgives neither, so a candidate
        # is looked at as the referee will: a hair inside the ball, and in float32.
        x_adv = geometry.shrink_inside(x_adv[index], self.rows.x[index], self.threat.norm, self.threat.eps)
        x_adv = _channels_first(x_adv).contiguous()
        y = self.y[index]
        logits = torch.cat(self.pieces.run(lambda piece: self.oracle.exact_for(x_adv[piece], y[piece]), len(x_adv)))
        margins = losses.margin(logits, y)
        close = (margins > -CLOSE * logits.abs().amax(1)).to(margins)
        found = torch.stack([margins, close]).tolist()
        for row, point_x_adv, margin, is_close in zip(candidates.tolist(), x_adv, *found, strict=True):
            attempt = self.attempts[row]
            if attempt is None:  # another row of this batch has broken the point a moment ago
                continue
            if margin > attempt.point.best_margin:
                attempt.point.best_margin, attempt.point.close = margin, bool(is_close)
                attempt.point.best = point_x_adv.clone()
            if margin > 0:
                self._finish(attempt.point)

    def _free(self, ended: Tensor) -> None:
        """End the attempts of these rows (m,); a point without further attempts is done."""
        for row in ended.tolist():
            attempt = self.attempts[row]
            if attempt is None:
                continue
            self.attempts[row] = None
            attempt.point.running -= 1
            attempt.point.survived += 1
            self._place(attempt.point)
            if not attempt.point.running and not attempt.point.has_attempts:
                self._finish(attempt.point)

    def _finish(self, point: _Point) -> None:
        assert point.best is not None
        # bf16 rounds by more than such a point's distance from the boundary: only float32 can say whether it survives.
        if self.oracle.precision == "bf16" and point.close and point.best_margin <= 0:
            self.close.append(point.position)
        else:
            self.done.append((point, point.best))
        self.ready.drop(point)
        self.attempts = [None if attempt and attempt.point is point else attempt for attempt in self.attempts]

    def _next_stage(self, ended: Tensor) -> None:
        if len(ended):
            index = upload(ended, self.oracle.device)
            self.rows.put(index, self.attack.next_stage(self.rows.select(index)))


def _schedule(family: Family) -> Schedule:
    if family.ladder:
        factors, steps = zip(*family.ladder, strict=True)
        return Schedule(factors, steps)
    return Schedule.larger_radii(family.steps) if family.larger_radii else Schedule.plain(family.steps)


def _pixels_first(x: Tensor) -> Tensor:
    """(n, c, h, w) to contiguous (n, h, w, c); no copy is made if channels come last in memory already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _channels_first(x: Tensor) -> Tensor:
    """(n, h, w, c) to (n, c, h, w), a view."""
    return x.permute(0, 3, 1, 2)


def _targets(logits: Tensor, y: Tensor, family: Family) -> list[list[int]]:
    """Target class of each attempt of each point: the most likely wrong classes, ``restarts`` times each.

    It is -1, once per restart, if the loss has no target.
    """
    if family.targets == 0:
        return [[-1] * family.restarts] * len(y)
    count = min(family.targets, logits.shape[1] - 1)
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    likely = wrong.argsort(dim=1, descending=True, stable=True)[:, :count]
    return likely.repeat_interleave(family.restarts, dim=1).tolist()
