"""Attack jobs: one attack family in one norm on some points; each proposal is judged and stored at once."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from robustctl.attacks import declared
from robustctl.data import ImageData
from robustctl.evaluation import referee, reference
from robustctl.evaluation.families import gathered, run_family
from robustctl.evaluation.protocols import Family
from robustctl.evaluation.row_scheduler import FamilyRun, Finished
from robustctl.evaluation.store import Row, Store, encode
from robustctl.oracle import Oracle
from robustctl.progress import Advance
from robustctl.threats import Norm, Threat


@dataclass(frozen=True)
class Setting:
    """The things that the jobs of one evaluation share.

    Model, images, the store of verdicts, seed >= 0, images per forward pass, and passes that judge a point.
    """

    model: nn.Module
    oracle: Oracle
    data: ImageData
    store: Store
    seed: int
    batch_size: int
    passes: int = 1


@dataclass(frozen=True)
class AttackJob:
    """One attack family in one norm. ``propose`` takes the points that the family meets and those it has done.

    ``cost`` is in gradient evaluations per point; ``exact`` says if these are in float32 in any case.
    """

    threat: Threat
    family: str
    cost: float
    exact: bool
    propose: Callable[[Sequence[int], set[int]], Iterator[Finished]]


def own_job(setting: Setting, threat: Threat, family: Family, *, in_float32: bool = False) -> AttackJob:
    """A job of one of our families.

    Args:
        in_float32: attack in float32 whatever the oracle's precision.
    """

    def propose(meets: Sequence[int], done: set[int]) -> Iterator[Finished]:
        left = [position for position in meets if position not in done]
        if left:
            oracle = setting.oracle
            family_run = FamilyRun(oracle, setting.data, threat, family, setting.seed, setting.batch_size)
            lower = oracle.precision != "float32"
            with oracle.in_float32(family_run.image) if in_float32 and lower else nullcontext():
                yield from run_family(family_run, left)

    return AttackJob(threat, family.name, family.cost(setting.data.n_classes), declared(family.attack).exact, propose)


def reference_job(setting: Setting, threat: Threat, attack: str) -> AttackJob:
    """A job of one of the reference package's attacks."""

    def propose(meets: Sequence[int], done: set[int]) -> Iterator[Finished]:
        seed, batch_size = setting.seed, setting.batch_size
        return reference.run(setting.model, setting.data, meets, done, threat, attack, seed=seed, batch_size=batch_size)

    return AttackJob(threat, attack, reference.cost(threat.norm, attack, setting.data.n_classes), True, propose)


def run(job: AttackJob, setting: Setting, meets: Sequence[int], advance: Advance) -> None:
    """Attack the points at positions ``meets`` that this job has not judged; commit verdicts batch by batch.

    The attack's spending is committed with the verdicts; a process that is killed loses what it spent since then.
    """
    norm, store, oracle = job.threat.norm, setting.store, setting.oracle
    done = store.judged(norm, job.family)
    note = f"{job.threat} {job.family}: {len(set(meets) - done)} points"
    advance(0, note)
    session, before = uuid.uuid4().hex, oracle.evaluations
    for batch in gathered(job.propose(meets, done), setting.batch_size):
        x, y = setting.data.images(batch.positions), setting.data.y[batch.positions]
        verdicts = referee.judge(setting.model, x, y, batch.x_adv, job.threat, setting.passes)
        store.add(norm, job.family, _rows(batch, x, verdicts), session, oracle.evaluations - before)
        advance(round(job.cost * len(batch.positions)), note)


def _rows(batch: Finished, x: Tensor, verdicts: referee.Verdicts) -> list[Row]:
    columns = zip(
        batch.positions, verdicts.broken.tolist(), verdicts.inside.tolist(), verdicts.margin.tolist(), strict=True
    )
    return [
        Row(position, broken, inside, margin, encode(batch.x_adv[i], x[i]) if broken else None)
        for i, (position, broken, inside, margin) in enumerate(columns)
    ]


def survivors(store: Store, norms: Sequence[Norm], right: Sequence[int]) -> list[int]:
    """The positions of ``right`` that no attack that counts has broken in any of the norms."""
    broken = set().union(*(store.broken(norm) for norm in norms))
    return [position for position in right if position not in broken]
