"""Attacks that look for the nearest misclassified point in l_inf, l_2 or l_1, one round after the other.

FMN (and APGD at the bound where FMN finds nothing) gives a first witness; halving the line to the image brings it to
the boundary; then APGD is asked again and again for a point within a radius between the largest that it failed at and
the distance known.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks.apgd import Apgd, Schedule
from robustctl.attacks.fmn import fmn
from robustctl.evaluation.store import Store, decode
from robustctl.oracle import Loss, Oracle
from robustctl.threats import Norm, Threat

FMN_STEPS = 100
BOUND_STEPS = 50
"""The losses of APGD at the bound, for points that FMN has not broken; one start per loss."""
ROUNDS = 10
ROUND_STEPS = 40
WIDE = 2.0
"""A multiple of the radius: the ball in which l_1 begins, as the larger radii of l_1-APGD (arXiv:2103.01208, Sec.
3.3)."""
TARGETS = 3
"""Classes that every other round aims at in turn; the others aim at none."""
LINE = 14
"""Halvings of the line from the image to a witness: it ends within 1/16,384 of its length of the boundary."""
FIRST_LOW = 0.5
"""A share of the first distance: bisection begins there, until a smaller radius has been broken."""
LOSSES: tuple[Loss, ...] = (losses.probability_margin, losses.margin, losses.ce)


PARAMETERS = [FMN_STEPS, BOUND_STEPS, ROUNDS, ROUND_STEPS, LINE]
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
        """Note whether it broke a point whose distance was ``before`` until then; most rounds do not use this."""


class Fmn(Round):
    """FMN from the image."""

    def __init__(self, threat: Threat, known: Known) -> None:
        super().__init__("fmn", known)
        self.threat = threat

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        return line(oracle, x, y, fmn(oracle, x, y, self.threat, steps=FMN_STEPS))


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
        logits = oracle.logits(x).scatter(1, y[:, None], -torch.inf)
        rank = min(self.number // 2 % TARGETS, logits.shape[1] - 2)
        target = logits.argsort(dim=1, descending=True)[:, rank]
        return line(
            oracle,
            x,
            y,
            climb(oracle, x, y, self.threat, radii, losses.margin, ROUND_STEPS, start=start, target=target),
        )

    def learn(self, position: int, before: float | None, broken: bool) -> None:
        if before is not None and not broken:
            self.low[position] = self.radius(position, before)


def rounds(threat: Threat, known: Known, store: Store) -> list[Round]:
    """The rounds in their order."""
    low: dict[int, float] = {}
    found: list[Round] = [Fmn(threat, known)]
    found += [AtBound(f"bound {k}", threat, known, loss) for k, loss in enumerate(LOSSES)]
    return found + [Bisection(k, threat, known, low, store) for k in range(ROUNDS)]


def cost(norm: Norm) -> float:
    """The most gradient evaluations per image: APGD in l_1 begins in a wider ball, with as many steps again."""
    climbs = len(LOSSES) * BOUND_STEPS + ROUNDS * ROUND_STEPS
    return FMN_STEPS + climbs * (2 if norm == "l1" else 1) + (ROUNDS + 1) * LINE / 2


def witnesses(store: Store, norm: str, known: Known, x: Tensor, positions: Sequence[int]) -> Tensor:
    """The nearest known points for images x (n, c, h, w) that all have one."""
    images = x.cpu()
    found = [
        decode(store.witness(norm, known[position][1], position), image)
        for position, image in zip(positions, images, strict=True)
    ]
    return torch.stack(found).to(x)


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
        for _ in range(steps):
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
