"""Attacks that look for the nearest misclassified point in l_inf, l_2 or l_1, one round after the other.

FMN descends to the image from far misclassified points, one for each of several classes: gradients near the image may
mislead, far from it they hardly do. APGD at the bound follows where nothing was found. Halving the line to the image
brings a point to the boundary. Then APGD is asked again and again for a point within a radius between the largest that
it failed at and the distance known, and FMN follows the boundary from there in small steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from robustctl import geometry, losses, seeds
from robustctl.attacks.apgd import Apgd, Schedule
from robustctl.attacks.fmn import fmn
from robustctl.data import ImageData
from robustctl.evaluation.store import Store, decode
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Norm, Threat

DESCENTS, DESCENT_STEPS = 6, 60
SHRINKING = (0.2, 0.005)
"""First and last relative change of a descent's radius, which begins far away."""
FAR_STEPS, FAR_STEP = 15, 0.2
"""Steps to a far point, at most, and how far each pixel moves in one."""
NOISE = 0.5
"""Where every other descent begins, each pixel has moved by up to this much."""
PAYS, IDLE = 0.99, 2
"""A point leaves the descents after so many in a row that left it farther than this share of the distance known."""
BOUND_STEPS = 50
"""The losses of APGD at the bound, for points that nothing has broken; one start per loss."""
ROUNDS, ROUND_STEPS = 8, 20
WIDE, WIDE_SHARE = 2.0, 0.5
"""A multiple of the radius: the ball in which l_1 begins, as the larger radii of l_1-APGD (arXiv:2103.01208, Sec.
3.3); and the steps there as a share of the others."""
TARGETS = 3
"""Classes that every other round of bisection aims at in turn; the others aim at none."""
REFINING_STEPS, REFINING = 40, (0.02, 0.001)
"""Steps of the last round, and the first and last relative change of its radius."""
LINE = 14
"""Halvings of the line from the image to a witness: it ends within 1/16,384 of its length of the boundary."""
FIRST_LOW = 0.8
"""A share of the known distance: bisection begins above it, until a radius has failed."""
LOSSES: tuple[Loss, ...] = (losses.probability_margin, losses.margin, losses.ce)


PARAMETERS = [
    *(DESCENTS, DESCENT_STEPS, *SHRINKING, FAR_STEPS, FAR_STEP, NOISE, PAYS, IDLE),
    *(BOUND_STEPS, ROUNDS, ROUND_STEPS, WIDE, WIDE_SHARE, TARGETS, LINE, FIRST_LOW),
    *(REFINING_STEPS, *REFINING),
]
"""Parts of a store's key."""
Known = dict[int, tuple[float, str]]
"""Distance of the nearest witness of each position, and the family that found it."""


class Round(ABC):
    """One attack of a search; ``name`` is its family in the store."""

    def __init__(self, name: str, known: Known) -> None:
        self.name, self.known = name, known

    def meets(self, position: int) -> bool:
        """Whether a point meets this round; every point does unless a round says otherwise."""
        return True

    @abstractmethod
    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        """Points (n, c, h, w); the misclassified ones count."""

    def learn(self, position: int, before: float | None, broken: bool) -> None:  # noqa: B027
        """Note whether it broke a point whose distance was ``before`` until then, and is the known one now; some rounds
        do not use this."""


class Descent(Round):
    """FMN from a far point, which signs of gradients lead to: towards one class, from the image or, in turn, from noise
    around it, where a gradient is that is zero at the image.

    ``idle`` counts by position the descents in a row that did not pay.
    """

    def __init__(
        self, number: int, threat: Threat, known: Known, idle: dict[int, int], data: ImageData, seed: int
    ) -> None:
        super().__init__(f"descent {number}", known)
        self.number, self.threat, self.idle, self.data, self.seed = number, threat, idle, data, seed

    def meets(self, position: int) -> bool:
        return position not in self.known or self.idle.get(position, 0) < IDLE

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        begin = self.noisy(x, positions) if self.number % 2 else x
        start = far(oracle, begin, y, ranked(oracle, x, y, self.number // 2))
        found = fmn(oracle, x, y, self.threat, steps=DESCENT_STEPS, start=start, change=SHRINKING)
        return line(oracle, x, y, found)

    def noisy(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """Images (n, c, h, w) with noise of their own."""
        indices = self.data.indices[list(positions)].tolist()
        generators = seeds.generators(self.seed, seeds.attack(self.threat.norm, self.name), indices)
        return (x + NOISE * geometry.draw(x, generators, uniform=True)).clamp(0, 1)

    def learn(self, position: int, before: float | None, broken: bool) -> None:
        if before is not None:
            pays = self.known[position][0] < PAYS * before
            self.idle[position] = 0 if pays else self.idle.get(position, 0) + 1


class AtBound(Round):
    """APGD at the bound with one loss, for points that nothing has broken."""

    def __init__(self, name: str, threat: Threat, known: Known, loss: Loss) -> None:
        super().__init__(name, known)
        self.threat, self.loss = threat, loss

    def meets(self, position: int) -> bool:
        return position not in self.known

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        radii = torch.full_like(x[:, 0, 0, 0], self.threat.eps)
        return line(oracle, x, y, climb(oracle, x, y, self.threat, radii, self.loss, BOUND_STEPS))


class Bisection(AtBound):
    """APGD at a radius between the largest that it has failed at (``low``) and the distance that is known.

    Every other round begins at the nearest point that is known and aims at one class. Everything follows from the
    verdicts in their order, so that a search that goes on takes the same radii.
    """

    def __init__(self, number: int, threat: Threat, known: Known, low: dict[int, float], store: Store) -> None:
        super().__init__(f"bisection {number}", threat, known, LOSSES[number // 2 % len(LOSSES)])
        self.number, self.low, self.store = number, low, store

    def meets(self, position: int) -> bool:
        return position in self.known

    def radius(self, position: int, before: float) -> float:
        """The radius at which it looks."""
        return (min(self.low.get(position, FIRST_LOW * before), 0.99 * before) + before) / 2

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        wanted = [self.radius(position, self.known[position][0]) for position in positions]
        radii = torch.tensor(wanted, dtype=x.dtype, device=x.device)
        if self.number % 2 == 0:
            return line(oracle, x, y, climb(oracle, x, y, self.threat, radii, self.loss, ROUND_STEPS))
        start = witnesses(self.store, self.threat.norm, self.known, x, positions)
        target = ranked(oracle, x, y, self.number // 2 % TARGETS)
        found = climb(oracle, x, y, self.threat, radii, losses.margin, ROUND_STEPS, start=start, target=target)
        return line(oracle, x, y, found)

    def learn(self, position: int, before: float | None, broken: bool) -> None:
        if before is not None and not broken:
            self.low[position] = self.radius(position, before)


class Refinement(Round):
    """FMN from the nearest point that is known, in small changes of the radius."""

    def __init__(self, threat: Threat, known: Known, store: Store) -> None:
        super().__init__("refinement", known)
        self.threat, self.store = threat, store

    def meets(self, position: int) -> bool:
        return position in self.known

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        start = witnesses(self.store, self.threat.norm, self.known, x, positions)
        found = fmn(oracle, x, y, self.threat, steps=REFINING_STEPS, start=start, change=REFINING)
        return line(oracle, x, y, found)


def rounds(threat: Threat, known: Known, store: Store, data: ImageData, seed: int) -> list[Round]:
    """The rounds in their order."""
    low: dict[int, float] = {}
    idle: dict[int, int] = {}
    found: list[Round] = [Descent(k, threat, known, idle, data, seed) for k in range(DESCENTS)]
    found += [AtBound(f"bound {k}", threat, known, loss) for k, loss in enumerate(LOSSES)]
    found += [Bisection(k, threat, known, low, store) for k in range(ROUNDS)]
    return [*found, Refinement(threat, known, store)]


def cost(norm: Norm) -> float:
    """The most gradient evaluations per image; APGD in l_1 begins in a wider ball, with some more steps.

    Beside its steps, a round that breaks a point asks for logits that rank classes, a check, and those along the line.
    """
    climbs = (len(LOSSES) * BOUND_STEPS + ROUNDS * ROUND_STEPS) * (1 + WIDE_SHARE * (norm == "l1"))
    passes = (DESCENTS + 1 + ROUNDS + 1) * (LINE + 3)
    return DESCENTS * (FAR_STEPS + DESCENT_STEPS) + climbs + REFINING_STEPS + passes / 2


def witnesses(store: Store, norm: str, known: Known, x: Tensor, positions: Sequence[int]) -> Tensor:
    """The nearest known points for images x (n, c, h, w) that all have one."""
    images = x.cpu()
    found = [
        decode(store.witness(norm, known[position][1], position), image)
        for position, image in zip(positions, images, strict=True)
    ]
    return torch.stack(found).to(x)


def ranked(oracle: Oracle, x: Tensor, y: Tensor, rank: int) -> Tensor:
    """The wrong class (n,) of this rank for images x (n, c, h, w). Ranks begin at 0, the likeliest; the last stays."""
    logits = oracle.logits(x).scatter(1, y[:, None], -torch.inf)
    return logits.argsort(dim=1, descending=True)[:, min(rank, logits.shape[1] - 2)]


def far(oracle: Oracle, begin: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Walk from ``begin`` (n, c, h, w) towards the classes ``target`` (n,), until points are misclassified.

    All pixels move alike, as far as the box lets them: the points lie far away in every norm.
    """
    x_adv, left = begin.clone(), torch.arange(len(begin), device=begin.device)
    for _ in range(FAR_STEPS):

        def towards(logits: Tensor, y: Tensor, target: Tensor = target[left]) -> Tensor:
            return losses.margin_targeted(logits, y, target)

        logits, _, grad = oracle.loss_and_grad(x_adv[left], y[left], towards)
        right = losses.margin(logits, y[left]) <= 0
        left, grad = left[right], grad[right]
        if not len(left):
            break
        x_adv[left] = (x_adv[left] + FAR_STEP * grad.sign()).clamp(0, 1)
    return x_adv


def climb(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    radii: Tensor,
    loss: Loss,
    steps: int,
    *,
    start: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """APGD in a ball of its own for each row (n,); rows that are broken leave with that point.

    Args:
        start: where it begins, cut to the ball; without, at the images. target: class (n,) to aim at by its margin.

    Returns:
        Misclassified points, else those that it ended at.
    """
    attack = Apgd(threat, Schedule.plain(steps))

    def chosen(index: Tensor) -> Loss:
        return loss if target is None else lambda logits, y: losses.margin_targeted(logits, y, target[index])

    index = torch.arange(len(x), device=x.device)
    if threat.norm == "l1":
        wide = attack.start(x, None, start, WIDE * radii)
        for _ in range(round(WIDE_SHARE * steps)):
            _, values, grad = oracle.loss_and_grad(wide.x_adv, y, chosen(index))
            attack.advance(wide, values, grad.contiguous())
        start = wide.x_best
    rows = attack.start(x, None, start, radii)
    best = x.clone()
    for _ in range(steps):
        logits, values, grad = oracle.loss_and_grad(rows.x_adv, y[index], chosen(index))
        wrong = losses.margin(logits, y[index]) > 0
        if wrong.any():
            exact = losses.margin(oracle.exact(rows.x_adv[wrong]), y[index[wrong]]) > 0
            wrong[wrong.clone()] = exact
            best[index[wrong]] = rows.x_adv[wrong]
            rows, index = rows.select(~wrong), index[~wrong]
            values, grad = values[~wrong], grad[~wrong]
        if not len(index):
            return best
        attack.advance(rows, values, grad.contiguous())
    best[index] = rows.x_adv
    return best


def line(oracle: Oracle, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    """Bring misclassified points nearer along the line to the image, as long as they stay misclassified."""
    start = losses.margin(oracle.exact(x_adv), y) > 0
    if not start.any():
        return x_adv
    x, y, there = x[start], y[start], x_adv[start]
    low, high = torch.zeros_like(x[:, :1, :1, :1]), torch.ones_like(x[:, :1, :1, :1])
    best = there.clone()
    for _ in range(LINE):
        middle = (low + high) / 2
        tried = geometry.contiguous((x + middle * (there - x)).clamp(0, 1))
        wrong = (losses.margin(oracle.exact(tried), y) > 0).view(-1, 1, 1, 1)
        best = torch.where(wrong, tried, best)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    x_adv = x_adv.clone()
    x_adv[start] = best
    return x_adv
