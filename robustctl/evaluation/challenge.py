"""Attacks a sample of the points that a claim says survived, with a seed that nobody could know when it was made."""

import random

from robustctl.architectures import Classifier, device_of
from robustctl.data import ImageData
from robustctl.evaluation import checks, jobs
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.protocols import Family
from robustctl.evaluation.store import Store
from robustctl.files import scratch
from robustctl.oracle import Oracle
from robustctl.progress import Advance, progress
from robustctl.results.statistics import wilson
from robustctl.results.union import UnionResult
from robustctl.results.verification import Sample
from robustctl.threats import NORMS, Norm, Threat
from robustctl.trusted_copy import PROBE, trusted_copy

SAMPLE = 20
"""Survivors of each norm that are attacked, unless somebody asks for more."""


def families(norm: Norm) -> tuple[Family, ...]:
    """The protocols' own attack from a new start, and FMN, which no protocol uses."""
    return (
        Family("verify-apgd", "margin", 1, 0, 20, norm == "l1"),
        Family("verify-fmn", "ce", 1, 0, 20, False, "fmn"),
    )


def challenge(
    model: Classifier,
    data: ImageData,
    result: UnionResult,
    correct: list[bool],
    *,
    size: int,
    seed: int,
    batch_size: int,
) -> dict[Norm, Sample] | None:
    """Attack ``size`` survivors of each norm (of the union, if only that was claimed); the claim is a ``result``.

    Args:
        model: on the device to be used.
        correct: by position, whether an image is right without an attack.

    Returns:
        The points that fell, by norm; None if the model has no gradient that an attack could follow.
    """
    network = trusted_copy(model, "float32", data.images(range(min(PROBE, len(data)))).to(device_of(model)))
    with (
        scratch() as folder,
        Oracle(model, network, result.attack.draws) as oracle,
        Store(folder / "verdicts.sqlite", {"seed": seed}) as store,
        progress("attacking a sample of the survivors", None) as advance,
    ):
        if not checks.has_gradient(oracle, data):
            return None
        setting = Setting(model, oracle, data, store, seed, batch_size, result.attack.passes)
        found = {}
        for norm in [one for one in NORMS if one in result.norms]:
            robust = result.points.union() if result.attack.union_only else result.points.robust[norm]
            survivors = [position for position, one in enumerate(robust) if one and correct[position]]
            found[norm] = _attack(setting, Threat.of(norm, result.norms[norm].eps_text), survivors, size, advance)
        return found


def _attack(setting: Setting, threat: Threat, survivors: list[int], size: int, advance: Advance) -> Sample:
    lots = random.Random(f"{setting.seed} {threat.norm}")
    chosen = sorted(lots.sample(survivors, min(size, len(survivors))))
    left, before = chosen, setting.oracle.evaluations
    for family in families(threat.norm):
        jobs.run(jobs.own_job(setting, threat, family), setting, left, advance)
        broken = setting.store.broken(threat.norm, family.name)
        left = [position for position in left if position not in broken]
    fell = [position for position in chosen if position not in left]
    return Sample(
        survivors=len(survivors),
        sample=len(chosen),
        fell=setting.data.indices[fell].tolist(),
        ci95=wilson(len(fell), len(chosen)) if chosen else (0.0, 1.0),
        attacks=[str(family) for family in families(threat.norm)],
        evaluations=round(setting.oracle.evaluations - before),
    )
