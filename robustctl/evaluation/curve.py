"""Accuracy against radius: for each image the nearest misclassified point that any attack has found.

Minimum-norm attacks and bisection run in rounds (``nearest``, ``fewest``), attacks that see predicted classes alone if
they are asked for (``decision``). The referee judges every witness and measures its distance in float64; only the
nearest one counts.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustctl.evaluation import by_processes, decision, earlier, fewest, kind_threat, nearest, referee
from robustctl.evaluation.audit import chunks, clean_verdicts
from robustctl.evaluation.identity import model_and_images
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.nearest import Known, Round
from robustctl.evaluation.store import EARLIER, Row, Store, decode, encode
from robustctl.evaluation.store_key import Key, read_key
from robustctl.pieces import Pieces
from robustctl.processes import ALONE, World
from robustctl.progress import Advance, silent
from robustctl.threats import CurveNorm, Reach

NEARER = 0.95
"""A distance below this share of another one is nearer, beyond what bisection leaves."""


@dataclass(frozen=True)
class Nearest:
    """Distances by position (0 where the image itself is wrong), and whose witness is the nearest, counted.

    ``decision`` are the distances that attacks without gradient found by themselves; None if they did not run.
    """

    distance: dict[int, float]
    decision: dict[int, float] | None
    by: dict[str, int]
    evaluations: float
    flags: list[str]


def key(setup: Setup, reach: Reach) -> Key:
    """Everything that the distances depend on; ``reach`` is the norm with the bound."""
    steps = fewest.PARAMETERS if reach.norm == "l0" else nearest.PARAMETERS
    return {
        **model_and_images(setup.model, setup.spec, setup.data),
        "protocol": "curve",
        "threats": earlier.CURVE,
        "norm": reach.norm,
        "bound": reach.eps,
        "attack parameters": steps,
        "seed": setup.seed,
        "passes": setup.passes,
    }


def evaluate(
    setup: Setup,
    reach: Reach,
    path: Path,
    others: Sequence[Path],
    advance: Advance,
    *,
    by_decision: bool = False,
    world: World = ALONE,
) -> Nearest | None:
    """Search the nearest misclassified point of every image within the bound ``reach``.

    Args:
        path: of the store to go on with. others: stores of fixed radii and of other curves, whose witnesses count here.
        by_decision: attacks that see predicted classes alone run too; on a model without gradient they run alone.
        world: torchrun's processes, which share the points; all but the first return None.

    Raises:
        RunError: the store cannot be used, or the model's logits are not finite.
    """
    started = time.monotonic()
    others = [one for one in others if one != path and not by_processes.is_part(one)]

    def work(store: Store, world: World, advance: Advance) -> tuple[list[bool], Known]:
        correct = clean_verdicts(setup.model, setup.data, store, setup.batch_size, setup.passes)
        mine = world.share([position for position, is_right in enumerate(correct) if is_right])
        known: Known = {}
        _take_over(setup, reach, store, known, mine, others)
        for one in _plan(setup, reach, known, store, by_decision):
            _run(setup, reach, store, known, one, mine, advance)
        return correct, known

    if not by_processes.fill(world, path, key(setup, reach), lambda store: work(store, world, advance)):
        return None
    with Store(path, key(setup, reach)) as store:
        try:
            correct, known = work(store, ALONE, advance if world.size == 1 else silent)
        finally:
            store.add_seconds(time.monotonic() - started)
        wrong = {position: 0.0 for position, is_right in enumerate(correct) if not is_right}
        alone: Known = {}
        for family in decision.NAMES:
            _note_all(setup, reach, store, alone, family)
        by_them = wrong | _sizes(alone) if by_decision or not setup.gradient else None
        families = [family for _, family in known.values()]
        flags = [f"repaired: {store.repaired()} damaged rows were taken out"] if store.repaired() else []
        flags += _masking(setup, reach, by_them, store, known)
        by = {name: families.count(name) for name in dict.fromkeys(families)}
        return Nearest(wrong | _sizes(known), by_them, by, float(sum(store.spent().values())), flags)


def _sizes(known: Known) -> dict[int, float]:
    return {position: size for position, (size, _) in known.items()}


def _masking(setup: Setup, reach: Reach, by_them: dict[int, float] | None, store: Store, known: Known) -> list[str]:
    """Flag attacks without gradient that are nearer than the others at more points than chance would have."""
    if not setup.gradient:
        looked = ", ".join(decision.names(reach.norm))
        return [f"zero-gradient: only {looked}, which need no gradient, looked in {reach.norm}"]
    if by_them is None:
        return []
    gradients: Known = {}
    for family in store.families():
        if family not in decision.NAMES:
            _note_all(setup, reach, store, gradients, family)
    beaten = sum(
        size < NEARER * gradients.get(position, (reach.eps, ""))[0] for position, size in by_them.items() if size
    )
    if beaten <= max(kind_threat.MASKED * len(known), kind_threat.LEAST_MASKED):
        return []
    return [
        f"masking: in {reach.norm} attacks that see predicted classes alone came nearer than gradients at {beaten} of "
        f"{len(known)} points"
    ]


def _plan(setup: Setup, reach: Reach, known: Known, store: Store, by_decision: bool) -> list[Round]:
    """The rounds in their order."""
    found: list[Round] = []
    if setup.gradient and reach.norm == "l0":
        found += fewest.rounds(reach.eps, known, store, setup.data, setup.seed)
    elif setup.gradient:
        found += nearest.rounds(reach.threat, known, store, setup.data, setup.seed)
    if by_decision or not setup.gradient:
        found += decision.rounds(reach.norm, known, setup.data, setup.seed)
    return found


def cost(norm: CurveNorm) -> float:
    """The most gradient evaluations per image."""
    return fewest.cost() if norm == "l0" else nearest.cost(norm)


def _note_all(setup: Setup, reach: Reach, store: Store, known: Known, family: str) -> None:
    """Note the witnesses of a family that are nearer than what was known."""
    for position, packed in store.witnesses(reach.norm, family):
        x = setup.data.images([position])
        size = float(referee.distance(decode(packed, x[0])[None], x, reach.norm))
        if position not in known or size < known[position][0]:
            known[position] = size, family


def _take_over(
    setup: Setup, reach: Reach, store: Store, known: Known, right: list[int], others: Sequence[Path]
) -> None:
    """Judge the witnesses of other evaluations of the same model on the same images; the radius does not matter."""
    for path in (path for path in others if earlier.is_alike(path, store, setup.data)):
        family = f"{EARLIER}{path.stem}"
        done = store.judged(reach.norm, family)
        wanted = {position for position in right if position not in done}
        for positions, x_adv in _found_in(setup, reach, path, wanted):
            _judge(setup, reach, store, family, positions, x_adv, None, 0)
    for family in store.families():
        if family.startswith(EARLIER):
            _note_all(setup, reach, store, known, family)


def _found_in(setup: Setup, reach: Reach, path: Path, wanted: set[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Witnesses of another store in batches: positions and images. The threat of few pixels keeps images."""
    kind = read_key(path).get("kind")
    if kind is not None and kind != f'"{reach.norm}"':
        return
    found = earlier.nearest_in(path, reach.norm, wanted, setup.data) if kind is None else None
    for chunk in chunks(found or earlier.broken_in(path, reach.norm, wanted), setup.batch_size):
        positions = [position for position, _ in chunk]
        x = setup.data.images(positions)
        images = [
            decode(packed, image) if kind is None else kind_threat.decode(packed).view_as(image)
            for (_, packed), image in zip(chunk, x, strict=True)
        ]
        yield positions, torch.stack(images)


def _run(
    setup: Setup, reach: Reach, store: Store, known: Known, one: Round, right: Sequence[int], advance: Advance
) -> None:
    """Run a round on the points that it has not met, and read from the store what it did to the others."""
    data, oracle = setup.data, setup.oracle
    meets = [position for position in right if one.meets(position)]
    before = {position: known[position][0] for position in meets if position in known}
    done = store.judged(reach.norm, one.name)
    left = [position for position in meets if position not in done]
    session, spent = uuid.uuid4().hex, oracle.evaluations
    pieces = Pieces(min(setup.batch_size, fitting(oracle.model, data.images([0]).to(oracle.device))))
    advance(len(meets) - len(left), f"{reach.norm} {one.name}")
    for chunk in chunks(left, setup.batch_size):

        def work(piece: slice, chunk: list[int] = chunk) -> Tensor:
            x, y = data.images(chunk[piece]).to(oracle.device), data.y[chunk[piece]].to(oracle.device)
            return one.propose(oracle, x, y, chunk[piece]).cpu()

        x_adv = torch.cat(pieces.run(work, len(chunk)))
        _judge(setup, reach, store, one.name, chunk, x_adv, session, oracle.evaluations - spent)
        advance(len(chunk))
    _note_all(setup, reach, store, known, one.name)
    broken = store.broken(reach.norm, one.name)
    for position in meets:
        one.learn(position, before.get(position), position in broken)


def _judge(
    setup: Setup,
    reach: Reach,
    store: Store,
    family: str,
    positions: Sequence[int],
    x_adv: Tensor,
    session: str | None,
    evaluations: float,
) -> None:
    """Commit the verdicts on a batch."""
    x, y = setup.data.images(positions), setup.data.y[list(positions)]
    verdicts = referee.judge(setup.model, x, y, x_adv, reach, setup.passes)
    rows = []
    for i, position in enumerate(positions):
        broken = bool(verdicts.broken[i])
        packed = encode(x_adv[i], x[i]) if broken else None
        rows.append(Row(position, broken, bool(verdicts.inside[i]), float(verdicts.margin[i]), packed))
    store.add(reach.norm, family, rows, session, evaluations)
