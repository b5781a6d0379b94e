"""Accuracy against radius: for each image the nearest misclassified point, from minimum-norm attacks and bisection.

FMN (and APGD at the bound where FMN finds nothing) gives a first witness; halving the line to the image brings it to
the boundary; then APGD is asked again and again for a point within a radius between the largest that it failed at and
the distance known. The referee judges every witness and measures its distance in float64; only the nearest one counts.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks.apgd import Apgd, Schedule
from robustctl.attacks.fmn import fmn
from robustctl.checkpoint import weights_sha256
from robustctl.evaluation import earlier, referee
from robustctl.evaluation.audit import chunks, clean_verdicts
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.memory import Pieces, fitting
from robustctl.evaluation.store import EARLIER, Row, Store, decode, encode
from robustctl.evaluation.store_key import Key
from robustctl.oracle import Loss, Oracle
from robustctl.progress import Advance
from robustctl.threats import Norm, Threat
from robustctl.version import __version__

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


@dataclass(frozen=True)
class Nearest:
    """Distances by position (0 where the image itself is wrong), and whose witness is the nearest, counted."""

    distance: dict[int, float]
    by: dict[str, int]
    evaluations: float
    flags: list[str]


def key(setup: Setup, threat: Threat) -> Key:
    """Everything that the distances depend on; ``threat`` is the norm with the bound."""
    return {
        "robustctl": __version__,
        "weights": weights_sha256(setup.model),
        "architecture": setup.spec.architecture.model_dump(),
        "normalisation": setup.spec.normalization.model_dump() if setup.spec.normalization else None,
        "images": setup.data.content_sha256,
        "n": len(setup.data),
        "protocol": "curve",
        "threats": earlier.CURVE,
        "norm": threat.norm,
        "bound": threat.eps,
        "attack parameters": [FMN_STEPS, BOUND_STEPS, ROUNDS, ROUND_STEPS, LINE],
        "seed": setup.seed,
        "passes": setup.passes,
    }


def evaluate(setup: Setup, threat: Threat, path: Path, others: Sequence[Path], advance: Advance) -> Nearest:
    """Search the nearest misclassified point of every image within the bound ``threat``.

    Args:
        path: of the store to go on with. others: stores of fixed radii and of other curves, whose witnesses count here.

    Raises:
        RunError: the store cannot be used, or the model's logits are not finite.
    """
    with Store(path, key(setup, threat)) as store:
        correct = clean_verdicts(setup.model, setup.data, store, setup.batch_size, setup.passes)
        right = [position for position, is_right in enumerate(correct) if is_right]
        known: Known = {}
        _take_over(setup, threat, store, known, right, others)
        for one in _plan(threat, known, store):
            _run(setup, threat, store, known, one, right, advance)
        distance = {position: 0.0 for position, is_right in enumerate(correct) if not is_right}
        distance |= {position: size for position, (size, _) in known.items()}
        families = [family for _, family in known.values()]
        flags = [f"repaired: {store.repaired()} damaged rows were taken out"] if store.repaired() else []
        spent = float(sum(store.spent().values()))
        return Nearest(distance, {name: families.count(name) for name in dict.fromkeys(families)}, spent, flags)


def cost(norm: Norm) -> float:
    """Gradient evaluations an image at most: APGD in l_1 begins in a wider ball, with as many steps again."""
    climbs = len(LOSSES) * BOUND_STEPS + ROUNDS * ROUND_STEPS
    return FMN_STEPS + climbs * (2 if norm == "l1" else 1) + (ROUNDS + 1) * LINE / 2


Known = dict[int, tuple[float, str]]
"""Distance of the nearest witness of each position, and the family that found it."""


class Round:
    """One attack of the search; ``name`` is its family in the store. This one is FMN, which every point meets."""

    def __init__(self, name: str, threat: Threat, known: Known) -> None:
        self.name, self.threat, self.known = name, threat, known

    def meets(self, position: int) -> bool:
        """Whether a point meets it."""
        return True

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        """Points (n, c, h, w); the misclassified ones count."""
        return _line(oracle, x, y, fmn(oracle, x, y, self.threat, steps=FMN_STEPS))

    def learn(self, position: int, before: float | None, broken: bool) -> None:
        """Take in whether it broke a point, whose distance was ``before`` until then."""


class AtBound(Round):
    """APGD at the bound with one loss, for points that nothing has broken."""

    def __init__(self, name: str, threat: Threat, known: Known, loss: Loss) -> None:
        super().__init__(name, threat, known)
        self.loss = loss

    def meets(self, position: int) -> bool:
        return position not in self.known

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        radii = torch.full_like(x[:, 0, 0, 0], self.threat.eps)
        return _line(oracle, x, y, climb(oracle, x, y, self.threat, radii, self.loss, BOUND_STEPS))


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
        """Where it looks."""
        return (min(self.low.get(position, FIRST_LOW * before), 0.99 * before) + before) / 2

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        wanted = [self.radius(position, self.known[position][0]) for position in positions]
        radii = torch.tensor(wanted, dtype=x.dtype, device=x.device)
        if self.number % 2 == 0:
            return _line(oracle, x, y, climb(oracle, x, y, self.threat, radii, self.loss, ROUND_STEPS))
        start = self._witnesses(x, positions)
        logits = oracle.logits(x).scatter(1, y[:, None], -torch.inf)
        rank = min(self.number // 2 % TARGETS, logits.shape[1] - 2)
        target = logits.argsort(dim=1, descending=True)[:, rank]
        return _line(
            oracle,
            x,
            y,
            climb(oracle, x, y, self.threat, radii, losses.margin, ROUND_STEPS, start=start, target=target),
        )

    def _witnesses(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        images = x.cpu()
        found = [
            decode(self.store.witness(self.threat.norm, self.known[position][1], position), image)
            for position, image in zip(positions, images, strict=True)
        ]
        return torch.stack(found).to(x)

    def learn(self, position: int, before: float | None, broken: bool) -> None:
        if before is not None and not broken:
            self.low[position] = self.radius(position, before)


def _note_all(setup: Setup, threat: Threat, store: Store, known: Known, family: str) -> None:
    """Note the witnesses of a family that are nearer than what was known."""
    for position, packed in store.witnesses(threat.norm, family):
        x = setup.data.images([position])
        size = float(referee.distance(decode(packed, x[0])[None], x, threat.norm))
        if position not in known or size < known[position][0]:
            known[position] = size, family


def _take_over(
    setup: Setup, threat: Threat, store: Store, known: Known, right: list[int], others: Sequence[Path]
) -> None:
    """Judge the witnesses of other evaluations of the same model on the same images; the radius does not matter."""
    there = [path for path in others if path != store.path and earlier.is_alike(path, store, setup.data)]
    for path in there:
        family = f"{EARLIER}{path.stem}"
        done = store.judged(threat.norm, family)
        wanted = {position for position in right if position not in done}
        for chunk in chunks(earlier.nearest_in(path, threat.norm, wanted, setup.data), setup.batch_size):
            positions = [position for position, _ in chunk]
            x = setup.data.images(positions)
            x_adv = torch.stack([decode(packed, image) for (_, packed), image in zip(chunk, x, strict=True)])
            _judge(setup, threat, store, family, positions, x_adv, None, 0)
    for family in store.families():
        if family.startswith(EARLIER):
            _note_all(setup, threat, store, known, family)


def _plan(threat: Threat, known: Known, store: Store) -> list[Round]:
    """The rounds in their order."""
    low: dict[int, float] = {}
    rounds = [Round("fmn", threat, known)]
    rounds += [AtBound(f"bound {k}", threat, known, loss) for k, loss in enumerate(LOSSES)]
    return rounds + [Bisection(k, threat, known, low, store) for k in range(ROUNDS)]


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


def _line(oracle: Oracle, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
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


def _run(
    setup: Setup, threat: Threat, store: Store, known: Known, one: Round, right: Sequence[int], advance: Advance
) -> None:
    """Run a round on the points that it has not met, and read from the store what it did to the others."""
    data, oracle = setup.data, setup.oracle
    meets = [position for position in right if one.meets(position)]
    before = {position: known[position][0] for position in meets if position in known}
    done = store.judged(threat.norm, one.name)
    left = [position for position in meets if position not in done]
    session, spent = uuid.uuid4().hex, oracle.evaluations
    pieces = Pieces(min(setup.batch_size, fitting(oracle.model, data.images([0]).to(oracle.device))))
    advance(len(meets) - len(left), f"{threat.norm} {one.name}")
    for chunk in chunks(left, setup.batch_size):

        def work(piece: slice, chunk: list[int] = chunk) -> Tensor:
            x, y = data.images(chunk[piece]).to(oracle.device), data.y[chunk[piece]].to(oracle.device)
            return one.propose(oracle, x, y, chunk[piece]).cpu()

        x_adv = torch.cat(pieces.run(work, len(chunk)))
        _judge(setup, threat, store, one.name, chunk, x_adv, session, oracle.evaluations - spent)
        advance(len(chunk))
    _note_all(setup, threat, store, known, one.name)
    broken = store.broken(threat.norm, one.name)
    for position in meets:
        one.learn(position, before.get(position), position in broken)


def _judge(
    setup: Setup,
    threat: Threat,
    store: Store,
    family: str,
    positions: Sequence[int],
    x_adv: Tensor,
    session: str | None,
    evaluations: float,
) -> None:
    """Commit the verdicts on a batch."""
    x, y = setup.data.images(positions), setup.data.y[list(positions)]
    verdicts = referee.judge(setup.model, x, y, x_adv, threat, setup.passes)
    rows = []
    for i, position in enumerate(positions):
        broken = bool(verdicts.broken[i])
        packed = encode(x_adv[i], x[i]) if broken else None
        rows.append(Row(position, broken, bool(verdicts.inside[i]), float(verdicts.margin[i]), packed))
    store.add(threat.norm, family, rows, session, evaluations)
