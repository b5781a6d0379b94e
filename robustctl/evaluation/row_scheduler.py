"""Runs one attack family on many points and keeps the batch full.

An *attempt* is one run of the family (a restart, a target) at one point. A point that is broken leaves at once with all
its attempts, and the next attempt takes the free row, so that the batch keeps its size as long as there are attempts to
begin. Then it shrinks while the last attempts end: each family of each norm has such a tail of its own. The attack's
state and its randomness belong to the row, so what happens to a point does not depend on the rows around it.

The host never waits for an accelerator: what a step has found is looked at after the next step has been sent off
(``LATE``). So a broken point leaves two steps later, and its rows compute in vain until then; no verdict changes. The
host counts the steps itself, and so it knows without asking which attempts end.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustctl import geometry, losses, seeds
from robustctl.attacks.apgd import Apgd, Rows, Schedule
from robustctl.data import ImageData
from robustctl.devices import Arriving, is_host, upload
from robustctl.errors import RunError
from robustctl.evaluation.arrivals import Arrivals
from robustctl.evaluation.attempts import Attempt, Point, Ready, targets_of
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.protocols import Family
from robustctl.oracle import Loss, Oracle
from robustctl.pieces import Pieces
from robustctl.threats import Threat

SHRINK = 0.8
"""Free rows that no attempt can fill are dropped when at most this share of the batch is live. They are not dropped one
by one, because every new batch shape costs the libraries below some preparation."""
LATE = 1
"""Steps that an accelerator is sent off before the host looks at what an earlier one has found."""
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


@dataclass(frozen=True)
class _Sight:
    """Rows as they were at a step; the rows themselves go on before the host knows what was seen.

    ``attempts`` (n entries) of the rows, their images ``x`` and labels ``y``, the points ``evaluated``.
    """

    attempts: list[Attempt | None]
    x: Tensor
    y: Tensor
    evaluated: Tensor

    def at(self, rows: list[int]) -> "_Sight":
        """The same of these rows alone."""
        index = upload(torch.tensor(rows), self.x.device)
        return _Sight([self.attempts[row] for row in rows], self.x[index], self.y[index], self.evaluated[index])


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
        self.fresh: deque[Point] = deque()  # looked at, not begun
        self.ready = Ready()
        self.attempts: list[Attempt | None] = []  # of each row; None is a free row
        self.done: list[tuple[Point, Tensor]] = []  # finished, not yet handed out
        self.close: list[int] = []
        self.late = 0 if is_host(run.oracle.device) else LATE
        self.steps = 0
        self.arrivals = Arrivals()

    def run(self) -> Iterator[Finished]:
        """Each point once, in the order in which they finish, but for those in ``close``."""
        while True:
            self.fill()
            if self.done:
                yield self.take_done()
            if not self.attempts:
                return
            if any(attempt and not attempt.over for attempt in self.attempts):
                self.step()
                self.arrivals.take(self.steps - self.late)
            else:
                self.arrivals.take(self.steps)

    def take_done(self) -> Finished:
        points, x_adv = zip(*self.done, strict=True)
        self.done = []
        return Finished([point.position for point in points], torch.stack(x_adv))

    def fill(self) -> None:
        """Begin attempts until the batch is full; if there are too few, let it shrink."""
        live = sum(attempt is not None for attempt in self.attempts)
        begun: list[Attempt] = []
        while live + len(begun) < self.batch_size and (attempt := self._next_attempt()):
            begun.append(attempt)
        if begun:
            self._begin(begun)
        live += len(begun)
        if live == 0:
            self.attempts = []
        elif live <= SHRINK * len(self.attempts):
            self._shrink()

    def _next_attempt(self) -> Attempt | None:
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
        attempt = Attempt(point, point.next_attempt)
        point.next_attempt += 1
        point.running += 1
        self._place(point)
        return attempt

    def _place(self, point: Point) -> None:
        self.ready.place(point, side_by_side=self.family.targets > 0)

    def _new_point(self) -> Point | None:
        while not self.fresh and self.waiting:
            self._look()
        return self.fresh.popleft() if self.fresh else None

    def _look(self) -> None:
        """Read the next points; those that are wrong without any attack are done."""
        # A whole batch at once: one pass tells which points are wrong already, and the targets of all others.
        positions = [self.waiting.popleft() for _ in range(min(self.batch_size, len(self.waiting)))]
        x, y = self.data.images(positions), self.data.y[torch.as_tensor(positions)]
        logits = self._exact(x.to(self.oracle.device)).cpu()
        targets = targets_of(logits, y, self.family)
        wrong = losses.margin(logits, y) > 0
        for i, position in enumerate(positions):
            point = Point(position, int(self.data.indices[position]), x[i], int(y[i]), targets[i])
            if wrong[i]:
                self.done.append((point, point.x))
            else:
                self.fresh.append(point)

    def _begin(self, begun: list[Attempt]) -> None:
        """Put new rows into the free ones, and the rest behind them."""
        device = self.oracle.device
        x = _pixels_first(upload(torch.stack([attempt.point.x for attempt in begun]), device))
        purpose = seeds.attack(self.threat.norm, self.family.name)
        # The seed knows the point's index in its split and the attempt's number, but no row: so a verdict does not
        # depend on the batch size, the order of the points, or the moment at which an earlier process was killed.
        generators = [seeds.generator(self.seed, purpose, attempt.point.index, attempt.number) for attempt in begun]
        new = self.attack.start(x, None if self.family.from_image else generators)
        y = upload(torch.tensor([attempt.point.y for attempt in begun]), device)
        target = upload(torch.tensor([attempt.point.targets[attempt.number] for attempt in begun]), device)
        if not self.attempts:
            self.rows, self.y, self.target = new, y, target
            self._seat(begun)
            return
        # Free rows are filled in place; only rows beyond them make the tensors longer, which copies the whole batch.
        free = [row for row, attempt in enumerate(self.attempts) if attempt is None][: len(begun)]
        filling, behind = slice(len(free)), slice(len(free), None)
        if free:
            index = upload(torch.tensor(free), device)
            self.rows.put(index, new.select(filling))
            self.y[index], self.target[index] = y[filling], target[filling]
            for row, attempt in zip(free, begun[filling], strict=True):
                self.attempts[row] = attempt
        if len(begun) > len(free):
            self.rows = self.rows.extend(new.select(behind))
            self.y, self.target = torch.cat([self.y, y[behind]]), torch.cat([self.target, target[behind]])
            self.attempts += begun[behind]
        self._seat(self.attempts)

    def _shrink(self) -> None:
        kept = [row for row, attempt in enumerate(self.attempts) if attempt]
        index = upload(torch.tensor(kept), self.oracle.device)
        self.rows, self.y, self.target = self.rows.select(index), self.y[index], self.target[index]
        self._seat([self.attempts[row] for row in kept])

    def _seat(self, attempts: Sequence[Attempt | None]) -> None:
        """Let each attempt know its row."""
        self.attempts = list(attempts)
        for row, attempt in enumerate(self.attempts):
            if attempt:
                attempt.row = row

    def step(self) -> None:
        """One gradient evaluation for every row; attempts that end are over."""
        # Kept as they are: ``advance`` moves the rows on, and these logits are of here.
        sight = _Sight(list(self.attempts), self.rows.x, self.y, self.rows.x_adv)
        logits, values, grad = self._evaluate(sight.evaluated)
        live = [attempt is not None and not attempt.over for attempt in self.attempts]
        # Stages before the last one climb in larger balls: an image that is wrong there breaks nothing.
        counts = [bool(attempt and not attempt.over and self._in_last_stage(attempt)) for attempt in self.attempts]
        masks = upload(torch.tensor([live, counts]), self.oracle.device)
        found = torch.stack([masks[0] & ~values.isfinite(), masks[1] & (losses.margin(logits, self.y) > 0)])
        self.attack.advance(self.rows, values, grad)
        self.steps += 1
        over = self._count()
        best = None
        if over:
            best = replace(sight, x=self.rows.x, evaluated=self.rows.x_best).at(over)
        self.arrivals.send(self.steps, found, lambda flags: self._take_flags(flags, sight, best))

    def _in_last_stage(self, attempt: Attempt) -> bool:
        return attempt.stage == len(self.attack.schedule.steps) - 1

    def _count(self) -> list[int]:
        """Count a step of every attempt, and move those on whose stage has ended; the rows of those that are over."""
        live = [attempt for attempt in self.attempts if attempt and not attempt.over]
        staged, over = [], []
        for attempt in live:
            attempt.evaluated += 1
            if attempt.evaluated <= self.attack.schedule.steps[attempt.stage]:
                continue
            if self._in_last_stage(attempt):
                attempt.over = True
                over.append(attempt.row)
            else:
                attempt.stage, attempt.evaluated = attempt.stage + 1, 0
                staged.append(attempt.row)
        if staged:
            index = upload(torch.tensor(staged), self.oracle.device)
            self.rows.put(index, self.attack.next_stage(self.rows.select(index)))
        return over

    def _take_flags(self, flags: Tensor, sight: _Sight, best: _Sight | None) -> None:
        """Judge the rows that were wrong at a step, then those whose attempts ended there."""
        overflown, wrong = (flag.nonzero().squeeze(1).tolist() for flag in flags)
        if overflown:
            raise RunError(
                f"the loss is not finite under {self.family.name} on {self.threat}: the model's logits overflow"
            )
        if wrong:
            self._judge(sight.at(wrong))
        if best:
            self._judge(best, ended=True)

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

    def _judge(self, seen: _Sight, *, ended: bool = False) -> None:
        """Look at these points in full precision and strictly inside the ball; keep each point's best attempt.

        Args:
            ended: whether they are the last that their attempts have found.
        """
        # The attack computes in low precision and walks along the sphere. The referee forgives neither, so a candidate
        # is looked at as the referee will: a hair inside the ball, and in float32.
        x_adv = geometry.shrink_inside(seen.evaluated, seen.x, self.threat.norm, self.threat.eps)
        x_adv = _channels_first(x_adv).contiguous()
        logits = torch.cat(
            self.pieces.run(lambda piece: self.oracle.exact_for(x_adv[piece], seen.y[piece]), len(x_adv))
        )
        margins = losses.margin(logits, seen.y)
        close = (margins > -CLOSE * logits.abs().amax(1)).to(margins)
        images = Arriving(x_adv)  # sent before the margins, so that they are there when the margins are

        def take(found: Tensor) -> None:
            for attempt, image, (margin, is_close) in zip(
                seen.attempts, images.tensor(), found.T.tolist(), strict=True
            ):
                # Another row may have broken the point a moment ago.
                if attempt and not attempt.point.finished:
                    self._improve(attempt.point, image, margin, bool(is_close))
            if ended:
                self._free([attempt for attempt in seen.attempts if attempt])

        self.arrivals.send(self.steps, torch.stack([margins, close]), take)

    def _improve(self, point: Point, x_adv: Tensor, margin: float, close: bool) -> None:
        """Keep a point's best attempt, with its margin; one above 0 breaks the point."""
        if margin > point.best_margin:
            point.best_margin, point.close, point.best = margin, close, x_adv.clone()
        if margin > 0:
            self._finish(point)

    def _free(self, attempts: list[Attempt]) -> None:
        """Let go of the attempts that are over; a point without further attempts is done."""
        for attempt in attempts:
            point = attempt.point
            if point.finished:
                continue
            self.attempts[attempt.row] = None
            point.running -= 1
            point.survived += 1
            self._place(point)
            if not point.running and not point.has_attempts:
                self._finish(point)

    def _finish(self, point: Point) -> None:
        assert point.best is not None
        point.finished = True
        # bf16 rounds by more than such a point's distance from the boundary: only float32 can say whether it survives.
        if self.oracle.precision == "bf16" and point.close and point.best_margin <= 0:
            self.close.append(point.position)
        else:
            self.done.append((point, point.best))
        self.ready.drop(point)
        self.attempts = [None if attempt and attempt.point is point else attempt for attempt in self.attempts]


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
