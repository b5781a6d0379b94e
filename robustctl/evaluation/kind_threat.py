"""Evaluates one threat that is no l_p ball: attacks propose parameters, the referee renders and judges.

Points go through the attacks in their order; a point that one of them breaks does not meet the next one.
"""

import json
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustctl import seeds
from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.evaluation import by_processes, referee
from robustctl.evaluation.audit import BATCH, TIE, chunks, clean_verdicts
from robustctl.evaluation.earlier import broken_in, is_alike, nearest_in
from robustctl.evaluation.identity import model_and_images
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.store import EARLIER, Row, Store
from robustctl.evaluation.store import decode as unpacked
from robustctl.evaluation.store_key import Key, differing, plain, read_key, sha256_of_code
from robustctl.oracle import Oracle
from robustctl.perturbations import base
from robustctl.perturbations.base import EFFORTS, Effort, Family, Kind, Limit, Task
from robustctl.pieces import Pieces
from robustctl.processes import ALONE, World
from robustctl.progress import Advance, silent
from robustctl.spec import ModelSpec

PROBE = 16
"""Images that tell how long a threat takes."""
LEAST = Effort(1, 1, 2)
"""The attacks that they meet."""
MASKED = 0.25
"""Share of the points left by gradients that a search without them may break before the result is flagged."""
LEAST_MASKED = 4
"""Points that it must break at least for that."""
BUDGET, SEED, EFFORT = "budget", "seed", "effort"


@dataclass(frozen=True)
class Found:
    """The findings of the evaluation of one threat.

    Attributes:
        broken: positions, of those that are right without an attack.
        by: how many points each attack broke, by its name; ``earlier`` stands for other budgets or seeds.
        evaluations: gradient evaluations, of all sessions. seconds: likewise.
        flags: what a reader must know.
    """

    broken: set[int]
    by: dict[str, int]
    evaluations: int
    seconds: float
    flags: list[str]


@dataclass(frozen=True)
class Setup:
    """The things that the threats of one evaluation share; ``passes`` judge a point."""

    model: Classifier
    spec: ModelSpec
    data: ImageData
    oracle: Oracle
    effort: str
    seed: int
    batch_size: int
    passes: int
    gradient: bool


def key(setup: Setup, limit: Limit) -> Key:
    """Everything that the verdicts depend on, by the names that messages use."""
    return {
        "evaluation": "threat",
        **model_and_images(setup.model, setup.spec, setup.data),
        "kind": limit.name,
        "code of the kind": sha256_of_code(base.files(limit.name)),
        BUDGET: limit.budget,
        EFFORT: setup.effort,
        SEED: setup.seed,
        **({"passes and draws": [setup.passes, setup.oracle.draws]} if setup.passes > 1 else {}),
    }


def evaluate(
    setup: Setup, limit: Limit, path: Path, others: Sequence[Path], advance: Advance, world: World = ALONE
) -> Found | None:
    """Attack every point that the store at ``path`` has no verdict for, then count.

    Args:
        others: stores of the same kind, and curves in l0; what broke a point there within this budget breaks it here.
        world: torchrun's processes, which share the points; all but the first return None.

    Raises:
        RunError: the store cannot be used, or an attack proposes what is not finite.
    """
    started = time.monotonic()
    others = [one for one in others if one != path and not by_processes.is_part(one)]

    def work(store: Store, world: World, advance: Advance) -> list[int]:
        right = _right(setup, store)
        mine = world.share(right)
        _take_over(setup, limit, store, mine, others)
        for name, family in _families(setup, limit.kind).items():
            _run(setup, limit, store, name, family, mine, advance)
        return right

    if not by_processes.fill(world, path, key(setup, limit), lambda store: work(store, world, advance)):
        return None
    with Store(path, key(setup, limit)) as store:
        try:
            right = work(store, ALONE, advance if world.size == 1 else silent)
            changed = _rescore(setup, limit, store)
        finally:
            store.add_seconds(time.monotonic() - started)
        return _found(setup, limit, store, right, changed)


def seconds_left(setup: Setup, limit: Limit, path: Path) -> float:
    """How long a threat will take at most, from a few images under its attacks with the least effort."""
    with Store(path, key(setup, limit)) as store:
        right, total = _right(setup, store), 0.0
        for name, family in _families(setup, limit.kind).items():
            left = _left(limit, store, name, right)
            if not left:
                continue
            positions = left[:PROBE]
            seconds = min(_seconds(setup, limit, family, name, positions) for _ in range(2))
            total += seconds / len(positions) / family.cost(LEAST) * family.cost(EFFORTS[setup.effort]) * len(left)
    return total


def _seconds(setup: Setup, limit: Limit, family: Family, name: str, positions: Sequence[int]) -> float:
    started = time.perf_counter()
    _propose(setup, limit, family, name, positions, LEAST)
    return time.perf_counter() - started


def judge(
    model: nn.Module, kind: Kind, x: Tensor, y: Tensor, z: Tensor, budget: float, passes: int = 1
) -> referee.Verdicts:
    """Judge parameters z (n, k) float32 for images x (n, c, h, w) with labels y (n,), all on the CPU.

    The image is rendered in float64 and rounded to float32, so that no attack has a say in it.

    Raises:
        RunError: parameters or logits are not finite.
    """
    referee.require_finite(z, "proposes parameters that are")
    exact, there = x.double(), z.double()
    with torch.no_grad():
        inside = kind.inside(exact, there, budget, model)
        images = kind.render(exact, there).float()
    votes = referee.vote(model, images, y, passes)
    inside = inside & referee.in_box(images)
    return referee.Verdicts(votes.wrong & inside, inside, votes.margin, votes.right)


def encode(z: Tensor) -> bytes:
    """Pack the parameters of one image, float32, losslessly."""
    return zlib.compress(z.numpy().astype("<f4").tobytes(), 1)


def decode(packed: bytes) -> Tensor:
    """The parameters (k,) that ``encode`` packed."""
    return torch.from_numpy(np.frombuffer(zlib.decompress(packed), "<f4").copy())


def _right(setup: Setup, store: Store) -> list[int]:
    correct = clean_verdicts(setup.model, setup.data, store, setup.batch_size, setup.passes)
    return [position for position, is_right in enumerate(correct) if is_right]


def _families(setup: Setup, kind: Kind) -> dict[str, Family]:
    return {name: one for name, one in kind.families().items() if setup.gradient or not one.gradient}


def _left(limit: Limit, store: Store, name: str, right: list[int]) -> list[int]:
    """The points that an attack has not met and that nothing has broken."""
    gone = store.broken(limit.name) | store.judged(limit.name, name)
    return [position for position in right if position not in gone]


def _run(
    setup: Setup, limit: Limit, store: Store, name: str, family: Family, right: list[int], advance: Advance
) -> None:
    left, session, before = _left(limit, store, name, right), uuid.uuid4().hex, setup.oracle.evaluations
    cost = family.cost(EFFORTS[setup.effort])
    advance(round(cost * (len(right) - len(left))), f"{limit} {name}: {len(left)} points")
    for chunk in chunks(left, setup.batch_size):
        z = _propose(setup, limit, family, name, chunk, EFFORTS[setup.effort])
        x, y = setup.data.images(chunk), setup.data.y[chunk]
        verdicts = judge(setup.model, limit.kind, x, y, z, limit.budget, setup.passes)
        store.add(limit.name, name, _rows(chunk, z, verdicts), session, setup.oracle.evaluations - before)
        advance(round(cost * len(chunk)))


def _propose(setup: Setup, limit: Limit, family: Family, name: str, positions: Sequence[int], effort: Effort) -> Tensor:
    data, oracle = setup.data, setup.oracle
    pieces = Pieces(min(setup.batch_size, fitting(oracle.model, data.images([0]).to(oracle.device))))

    def work(piece: slice) -> Tensor:
        chosen = torch.as_tensor(positions[piece])
        x, y = data.images(chosen).to(oracle.device), data.y[chosen].to(oracle.device)
        generators = seeds.generators(setup.seed, seeds.attack(limit.name, name), data.indices[chosen].tolist())
        return family.run(Task(oracle, x, y, limit.budget, effort, generators)).float().cpu()

    return torch.cat(pieces.run(work, len(positions)))


def _rows(positions: Sequence[int], z: Tensor, verdicts: referee.Verdicts) -> list[Row]:
    columns = zip(positions, verdicts.broken.tolist(), verdicts.inside.tolist(), verdicts.margin.tolist(), strict=True)
    return [
        Row(position, broken, inside, margin, encode(z[i]) if broken else None)
        for i, (position, broken, inside, margin) in enumerate(columns)
    ]


def _take_over(setup: Setup, limit: Limit, store: Store, right: list[int], others: Sequence[Path]) -> None:
    """Judge what broke points with another budget, seed or effort, so that a larger budget never looks safer."""
    here = plain(key(setup, limit))
    for path in sorted(others):
        there = read_key(path)
        if limit.name == "l0" and there.get("norm") == '"l0"' and is_alike(path, store, setup.data):
            _take_curve(setup, limit, store, right, path)
            continue
        if not there or set(differing(there, here)) - {BUDGET, EFFORT, SEED}:
            continue
        try:
            family = f"{EARLIER}{float(json.loads(there[BUDGET])):g}"
        except (KeyError, TypeError, ValueError):  # a damaged key
            continue
        wanted = set(right) - store.broken(limit.name) - store.judged(limit.name, family)
        for chunk in chunks(broken_in(path, limit.name, wanted), setup.batch_size):
            store.add(limit.name, family, _judged(setup, limit, chunk, store.judged(limit.name, family)))


def _take_curve(setup: Setup, limit: Limit, store: Store, right: list[int], path: Path) -> None:
    """Judge the nearest points of a curve in l0, which are images."""
    wanted = set(right) - store.broken(limit.name) - store.judged(limit.name, family := f"{EARLIER}curve")
    for chunk in chunks(nearest_in(path, "l0", wanted, setup.data), setup.batch_size):
        images = setup.data.images([position for position, _ in chunk])
        found = [
            (position, encode(unpacked(packed, image).flatten()))
            for (position, packed), image in zip(chunk, images, strict=True)
        ]
        store.add(limit.name, family, _judged(setup, limit, found, store.judged(limit.name, family)))


def _judged(setup: Setup, limit: Limit, found: Sequence[tuple[int, bytes]], done: set[int]) -> list[Row]:
    """The parameters that still break their point; parameters of another length are judged by themselves."""
    rows = []
    for position, packed in found:
        if position in done:
            continue
        x, y, z = setup.data.images([position]), setup.data.y[[position]], decode(packed)[None]
        verdicts = judge(setup.model, limit.kind, x, y, z, limit.budget, setup.passes)
        rows += [row for row in _rows([position], z, verdicts) if row.broken]
    return rows


def _rescore(setup: Setup, limit: Limit, store: Store) -> int:
    """Judge every witness once more in other batches; how many no longer hold, ties aside."""
    changed = 0
    for chunk in chunks(store.adversarial(limit.name), BATCH):
        by_length: dict[int, list[tuple[int, Tensor]]] = {}
        for position, packed in chunk:
            z = decode(packed)
            by_length.setdefault(len(z), []).append((position, z))
        for group in by_length.values():
            positions = [position for position, _ in group]
            x, y, z = setup.data.images(positions), setup.data.y[positions], torch.stack([one for _, one in group])
            verdicts = judge(setup.model, limit.kind, x, y, z, limit.budget, setup.passes)
            changed += int((~verdicts.broken & ~(verdicts.margin.abs() <= TIE)).sum())
    return changed


def _found(setup: Setup, limit: Limit, store: Store, right: list[int], changed: int) -> Found:
    kind, name = limit.kind, limit.name
    families = kind.families()
    by = {family: len(store.broken(name, family)) for family in families}
    broken = store.broken(name) & set(right)
    if taken := len(broken) - len(set().union(*(store.broken(name, family) for family in families))):
        by["earlier"] = taken
    flags = [f"rescoring: {changed} verdicts of {limit} did not hold in another batch"] if changed else []
    if store.repaired():
        flags.append(
            f"repaired: {store.repaired()} damaged rows of {limit} were taken out, their points attacked again"
        )
    if outside := store.outside(name):
        flags.append(f"outside: {outside} proposals for {limit} left the budget or the box and count as not broken")
    flags += _masking(setup, limit, store, families)
    spent = sum(store.spent().values())
    return Found(broken, by, spent, store.seconds(), flags)


def _masking(setup: Setup, limit: Limit, store: Store, families: dict[str, Family]) -> list[str]:
    blind = [name for name, one in families.items() if not one.gradient and (not one.further or not setup.gradient)]
    if not setup.gradient:
        if blind:
            return [f"zero-gradient: only {', '.join(blind)}, which needs no gradient, attacked {limit}"]
        return [f"zero-gradient: nothing attacked {limit}"]
    if not any(one.gradient for one in families.values()):
        return []
    met = {position for name in blind for position in store.judged(limit.name, name)}
    fell = {position for name in blind for position in store.broken(limit.name, name)}
    if len(fell) <= max(MASKED * len(met), LEAST_MASKED):
        return []
    return [
        f"masking: {', '.join(blind)} broke {len(fell)} of the {len(met)} points of {limit} that gradients had left: "
        "they are masked, or lead nowhere under this threat"
    ]
