"""A second opinion: attacks of other kinds on a small sample of the points that a protocol left.

Attacks prove what is broken, never what is robust. If an attack of another kind breaks a sampled survivor, the
protocol's own attacks were misled, and its figure is only an upper bound. The sample's outcome is reported beside the
figure and does not change it, so that figures of one protocol stay comparable.
"""

import hashlib
from collections.abc import Sequence

from robustctl.evaluation import checks, jobs, reference
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.protocols import FLAT, SQUARE, Family, families
from robustctl.evaluation.store import SECOND
from robustctl.progress import Advance
from robustctl.results.rounds import SecondOpinion, sample_size
from robustctl.threats import Norm, Threat

FAMILIES = (
    Family(f"{SECOND}fab-t", "ce", 1, 3, 100, False, "fab"),
    Family(f"{SECOND}fmn", "ce", 1, 0, 60, False, "fmn"),
    Family(f"{SECOND}square", "ce", 1, 0, 300, False, "square"),
)


def sample(survivors: Sequence[int], indices: Sequence[int], seed: int) -> list[int]:
    """The survivors that are looked at, chosen by the seed and each point's index in its split alone.

    Args:
        survivors: positions.
        indices: the index in its split of each position.
    """

    def lot(position: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{indices[position]}/second opinion".encode(), digest_size=8).digest()

    return sorted(sorted(survivors, key=lot)[: sample_size(len(survivors))])


def kinds(protocol: str, threat: Threat) -> tuple[Family, ...]:
    """The families whose attack the protocol itself does not use in this norm; an attack on the points without a
    gradient alone is no use on the others."""
    used = families("full" if protocol == reference.NAME else protocol, threat.norm)
    own = {family.attack for family in used if family.name != FLAT}
    return tuple(family for family in FAMILIES if family.attack not in own)


def ask(
    setting: Setting,
    protocol: str,
    threats: Sequence[Threat],
    right: Sequence[int],
    union_only: bool,
    advance: Advance,
) -> dict[Norm, SecondOpinion]:
    """Attack a sample of each norm's survivors, or of the union's in every norm, and count what falls.

    Args:
        protocol: whose survivors they are.
        right: positions that the model gets right without an attack.
    """
    norms = [threat.norm for threat in threats]
    blind = not checks.has_gradient(setting.oracle, setting.data)
    return {
        threat.norm: _in_one_norm(
            setting,
            threat,
            [one for one in kinds(protocol, threat) if not blind or one.attack == SQUARE],
            jobs.survivors(setting.store, norms if union_only else [threat.norm], right),
            advance,
        )
        for threat in threats
    }


def _in_one_norm(
    setting: Setting, threat: Threat, asked: Sequence[Family], survivors: Sequence[int], advance: Advance
) -> SecondOpinion:
    chosen = sample(survivors, setting.data.indices.tolist(), setting.seed)
    by: dict[str, int] = {}
    left = chosen
    for family in asked:
        jobs.run(jobs.own_job(setting, threat, family), setting, left, advance)
        fallen = setting.store.broken(threat.norm, family.name) & set(left)
        by[family.name.removeprefix(SECOND)] = len(fallen)
        left = [position for position in left if position not in fallen]
    spent = setting.store.spent()
    evaluations = sum(spent.get((threat.norm, family.name), 0) for family in asked)
    return SecondOpinion(sample=len(chosen), fell=sum(by.values()), by=by, evaluations=evaluations)
