"""Union evaluation: run the attack families of a protocol, judge what they propose, store verdicts, count."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from robustctl import processes
from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier, device_of
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData
from robustctl.devices import device_name
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.evaluation import (
    adaptive,
    by_processes,
    checks,
    earlier,
    external,
    faster,
    jobs,
    missed,
    reference,
    second_opinion,
)
from robustctl.evaluation.attack_flags import attack_flags
from robustctl.evaluation.audit import TIE, audit, clean_verdicts, mean_accuracies
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.identity import ORDER, describe, evaluation_key
from robustctl.evaluation.jobs import AttackJob, Setting
from robustctl.evaluation.protocols import PROTOCOLS, ROUNDS, SQUARE, families
from robustctl.evaluation.store import Store
from robustctl.evaluation.store_key import read_key
from robustctl.evaluation.union_request import UnionRequest
from robustctl.oracle import Oracle
from robustctl.precision import Precision
from robustctl.processes import ALONE, World
from robustctl.progress import duration, progress, say
from robustctl.results.rounds import Missed, SecondOpinion, masking_flags, opinion_flags
from robustctl.results.union import AttackInfo, Points, UnionResult, summarize
from robustctl.spec import ModelSpec
from robustctl.threats import Norm, require_plausible, unusual
from robustctl.trusted_copy import PROBE, Trusted, trusted_copy
from robustctl.version import versions


@dataclasses.dataclass(frozen=True)
class Beside:
    """Everything that is reported beside the verdicts: second opinions by norm, how much was missed, if that was asked,
    and where an adaptive protocol found no gradient."""

    opinions: dict[Norm, SecondOpinion]
    missed: dict[str, Missed] | None = None
    flat: adaptive.Flat = adaptive.SLOPES


def require_protocol(name: str, norms: Iterable[Norm]) -> None:
    """Raise RequestError unless ``name`` is a protocol that has attacks for these norms and can run here."""
    if name not in (names := [*ROUNDS, *PROTOCOLS, reference.NAME]):
        raise unknown("attack", name, names)
    for norm in norms if name != reference.NAME else ():
        families(name, norm)
    if name == reference.NAME and processes.count() > 1:
        raise RequestError(
            f"{name} draws its noise for whole batches, so that shares of the points would get other verdicts: "
            "run it in one process, without torchrun"
        )


def confirmed(
    model: Classifier,
    data: ImageData,
    request: UnionRequest,
    begun: Callable[[UnionRequest], bool] = lambda request: False,
    world: World = ALONE,
) -> tuple[UnionRequest, Trusted]:
    """The network that will be attacked, and the request with its precision and whether it is a copy.

    These are part of the key and of the result. The reference runs the float32 model. Our attacks run on a copy, and
    on the model itself if the two are not equal; then a line on stderr says why.

    Args:
        model: on the device to be used. data: images of its shape.
        begun: whether verdicts of a confirmed request are there; then its precision and order in memory are taken,
            without measuring. Fewer than ``faster.MEASURED`` images are not measured either.
        world: the first process decides for all.
    """
    images = data.images(range(min(PROBE, len(data)))).to(device_of(model))
    random = checks.is_random(model, data)
    if request.protocol == reference.NAME:
        trusted = Trusted(model, "float32", False)
    else:
        trusted = trusted_copy(model, request.precision, images)
    if trusted.reason:
        say(f"the attacks run on {trusted}")
    request = dataclasses.replace(request, precision=trusted.precision, fast_copy=trusted.copied, random=random)
    if not request.measure or request.protocol == reference.NAME:
        return request, trusted

    @functools.cache
    def copies(precision: Precision, channels_last: bool) -> Trusted:
        if (precision, channels_last) == (trusted.precision, True):
            return trusted
        return trusted_copy(model, precision, images, channels_last=channels_last)

    for way in faster.ways(request, trusted):
        if world.broadcast(begun(way)):
            return way, copies(way.precision, way.channels_last)
    if len(data) < faster.MEASURED:
        return dataclasses.replace(request, precision="float32"), copies("float32", True)
    found = world.broadcast(faster.fastest(model, data, request, trusted, copies))
    if found.seconds_per_image:
        say(faster.told(found.seconds_per_image))
    return found, copies(found.precision, found.channels_last)


def evaluate_union(
    model: Classifier,
    spec: ModelSpec,
    data: ImageData,
    request: UnionRequest,
    *,
    name: str,
    device: torch.device,
    store_path: Path,
    recorded: checks.KnownAccuracy | None = None,
    alone: bool = False,
    trusted: Trusted | None = None,
    others: external.Others = external.NONE,
) -> UnionResult | None:
    """Evaluate a model, going on from the verdicts that ``store_path`` already holds.

    Args:
        model: on any device; it is moved to ``device`` and is in eval mode afterwards.
        name: what to call the model in the result.
        store_path: SQLite file of this evaluation; its directory exists.
        recorded: the clean accuracy to be expected.
        alone: share no work with other processes of torchrun, and give the result in this one.
        others: attacks from outside, and earlier evaluations whose broken points stay broken.
        trusted: what ``confirmed`` returned with this request; None compares model and copy here.

    Returns:
        The result; under torchrun, in the first process only.

    Raises:
        RequestError: a guard refuses model or data before any attack.
        RunError: the store belongs to another evaluation or cannot be written, or an attack is faulty.
    """
    if not request.force:
        require_plausible(request.threats, spec.input_shape)
    for line in unusual(request.threats, spec.input_shape):
        say(line)
    require_protocol(request.protocol, [threat.norm for threat in request.threats])
    data.require(spec.input_shape, spec.n_classes)
    checks.require_pixels(data)
    model = model.to(device).eval()
    flags = checks.pixel_flags(data, spec.dataset, recorded, request.force)
    flags += checks.model_flags(model, data, spec.n_classes)
    if trusted is None:
        there = read_key(store_path)
        request, trusted = confirmed(model, data, request, lambda one: _agrees(there, one))
    if request.random:  # its noise is repeatable as long as nothing interrupts it
        torch.manual_seed(request.seed)
    key = evaluation_key(model, spec, data, request)
    world = World() if alone else processes.join()

    def work(store: Store, world: World) -> Beside:
        correct = clean_verdicts(model, data, store, request.batch_size, request.passes)
        checks.clean_flags(correct, data, recorded, request.force)
        right, size = _right(correct), request.batch_size
        mine = world.share(right)
        earlier.take_over(model, data, store, request.threats, mine, others.stores, size, request.passes)
        beside = _attack(trusted, model, data, store, request, right, world)
        for one in others.attacks:
            external.attack(one, model, data, store, request, mine)
        return beside

    start = time.monotonic()
    if not by_processes.fill(world, store_path, key, lambda store: work(store, world)):
        return None
    with Store(store_path, key) as store:
        try:
            beside = work(store, World())
            correct = clean_verdicts(model, data, store, request.batch_size, request.passes)
            rescored, rounded = audit(model, data, store, request.threats, correct, request.passes)
        finally:
            store.add_seconds(time.monotonic() - start)
        flags += checks.clean_flags(correct, data, recorded, request.force)
        flags += checks.gradient_flags(model, data, _right(correct))
        flags += rescored + attack_flags(store, request, len(data), spec.n_classes, trusted)
        return _result(model, data, store, request, correct, rounded, beside, flags, name, device)


def _agrees(there: dict[str, str], request: UnionRequest) -> bool:
    """Whether a store with this key attacks in the request's precision and order in memory."""
    return there.get("precision") == f'"{request.precision}"' and (ORDER not in there) == request.channels_last


def _right(correct: list[bool]) -> list[int]:
    return [position for position, is_right in enumerate(correct) if is_right]


def _attack(
    trusted: Trusted,
    model: Classifier,
    data: ImageData,
    store: Store,
    request: UnionRequest,
    right: list[int],
    world: World,
) -> Beside:
    """Attack this process's share of the points that are right; alone, ask for a second opinion on what is left."""
    missing, flat = None, adaptive.SLOPES
    with kept_memory(), Oracle(model, trusted, request.draws) as oracle:
        setting = Setting(model, oracle, data, store, request.seed, request.batch_size, request.passes)
        if request.protocol in ROUNDS:
            flat = _flat(setting, right)
            missing = _take_rounds(setting, request, right, world, flat)
        else:
            _run_jobs(setting, request, world.share(right))
        if world.size > 1:
            return Beside({})
        with progress("second opinion", None) as advance:
            threats, alone = request.threats, request.union_only
            return Beside(second_opinion.ask(setting, request.protocol, threats, right, alone, advance), missing, flat)


def _flat(setting: Setting, right: list[int]) -> adaptive.Flat:
    """Where no gradient can be followed. Every process looks at all points, so that all know the same ones."""
    if not checks.has_gradient(setting.oracle, setting.data):
        return adaptive.Flat(frozenset(right), whole=True)
    found = frozenset(checks.flat_points(setting.oracle, setting.data, right))
    if found:
        say(f"{len(found)} of {len(right)} points have no gradient to follow; Square, which needs none, attacks them")
    return adaptive.Flat(found)


def _take_rounds(
    setting: Setting, request: UnionRequest, right: list[int], world: World, flat: adaptive.Flat
) -> dict[str, Missed] | None:
    """Play an adaptive protocol; then bound what it missed, if that is asked."""
    with progress(f"attacking {len(right)} points", None) as advance:
        adaptive.attack(setting, request.protocol, request.threats, right, request.union_only, world, advance, flat)
        if request.until is None:
            return None
        return missed.bound(setting, request, right, world, advance, blind=flat.whole)


def _run_jobs(setting: Setting, request: UnionRequest, right: list[int]) -> None:
    """Run every job on the points that no earlier job of its norm (of any norm, union only) has broken."""
    todo = _jobs(setting, request)
    if checks.has_gradient(setting.oracle, setting.data):
        left = [(job, len(_left(job, setting.store, request, right))) for job in todo]
        _say_time(setting.oracle, setting.data, request, left)
    else:
        todo = _without_gradient(todo, request)
    units = math.ceil(sum(job.cost for job in todo) * len(right))
    with progress(f"attacking {len(right)} points", units) as advance:
        for job in todo:
            left_now = len(_left(job, setting.store, request, right))
            advance(round(job.cost * (len(right) - left_now)))
            jobs.run(job, setting, _meets(job, setting.store, request, right), advance)


def _without_gradient(jobs: list[AttackJob], request: UnionRequest) -> list[AttackJob]:
    """The jobs that need no gradient; RequestError if there is none."""
    if not (needing_none := [job for job in jobs if job.family == SQUARE]):
        raise RequestError(
            f"the model gives no gradient at all, and all attacks of --attack {request.protocol} follow it: they would "
            "prove nothing. --attack adaptive or full evaluates such a model by Square, which needs none"
        )
    return needing_none


def _say_time(oracle: Oracle, data: ImageData, request: UnionRequest, left: list[tuple[AttackJob, int]]) -> None:
    """Time one batch, of each model that is attacked, and say how long the jobs take if nothing breaks a point."""
    work = [(job, n) for job, n in left if n]
    if not work:
        return
    size = min(request.batch_size, len(data))
    seconds = {exact: seconds_per_batch(oracle, data, size, exact=exact) for exact in {job.exact for job, _ in work}}
    longest = sum(job.cost * n / size * seconds[job.exact] for job, n in work)
    taken = " or ".join(f"{one:.2g}" for one in seconds.values())
    say(f"a batch of {size} takes {taken} s; about {duration(longest)} left if no point breaks, less where points do")


def _meets(job: AttackJob, store: Store, request: UnionRequest, right: list[int]) -> list[int]:
    """The points that a job meets: those that no earlier job of its norm (of any norm, union only) has broken.

    Points that this very job broke stay in the list, so that it does not depend on the point at which an earlier
    session stopped.
    """
    norms = [threat.norm for threat in request.threats] if request.union_only else [job.threat.norm]
    broken = set().union(*(store.broken(norm) for norm in norms)) - store.broken(job.threat.norm, job.family)
    return [position for position in right if position not in broken]


def _left(job: AttackJob, store: Store, request: UnionRequest, right: list[int]) -> list[int]:
    done = store.judged(job.threat.norm, job.family)
    return [position for position in _meets(job, store, request, right) if position not in done]


def _jobs(setting: Setting, request: UnionRequest) -> list[AttackJob]:
    """The jobs in their order: norm by norm, or cheapest first if only the union is asked."""
    if request.protocol == reference.NAME:
        found = [
            jobs.reference_job(setting, threat, attack) for threat in request.threats for attack in reference.ATTACKS
        ]
    else:
        found = [
            jobs.own_job(setting, threat, family)
            for threat in request.threats
            for family in families(request.protocol, threat.norm)
        ]
    return sorted(found, key=lambda job: job.cost) if request.union_only else found


def _result(
    model: Classifier,
    data: ImageData,
    store: Store,
    request: UnionRequest,
    correct: list[bool],
    rounded: dict[Norm, list[int]],
    beside: Beside,
    flags: list[str],
    name: str,
    device: torch.device,
) -> UnionResult:
    broken = {threat.norm: store.broken(threat.norm) for threat in request.threats}
    points = Points(
        index=data.indices.tolist(),
        label=data.y.tolist(),
        clean=[int(right) for right in correct],
        robust={
            norm: [int(right and position not in points) for position, right in enumerate(correct)]
            for norm, points in broken.items()
        },
        robust_8bit=rounded,
    )
    foreign = external.infos(store, request.threats, _right(correct))
    rounds, most = None, None
    if request.protocol in ROUNDS:
        rounds = adaptive.round_infos(
            store, request.protocol, request.threats, _right(correct), request.union_only, beside.flat
        )
        spent, most = (
            sum(one.evaluations for one in rounds),
            adaptive.standard_cost(request.threats, sum(correct), data.n_classes),
        )
        say(f"{request.protocol} spent {spent:,} gradient evaluations; standard would have spent at most {most:,}")
        flags = flags + masking_flags(rounds, request.threats)
    return UnionResult(
        model=name,
        weights_sha256=weights_sha256(model),
        data=data.info,
        attack=AttackInfo(
            name=request.protocol,
            protocol=external.described(describe(request), foreign),
            seed=request.seed,
            precision=request.precision,
            seconds_per_image=dict(request.seconds_per_image) if request.seconds_per_image else None,
            batch_size=request.batch_size,
            channels_last=request.channels_last,
            fast_copy=request.fast_copy,
            passes=request.passes,
            draws=request.draws,
            union_only=request.union_only,
        ),
        flags=flags + opinion_flags(beside.opinions, request.threats),
        float_ties=store.ties(TIE),
        single_pass=mean_accuracies(model, data, store, request.threats, request.passes) if request.random else None,
        seconds=round(store.seconds(), 3),
        device=device_name(device),
        versions=versions(),
        points=points,
        external=foreign,
        earlier=earlier.counts(store, request.threats),
        rounds=rounds,
        standard_evaluations=most,
        second_opinion=beside.opinions,
        missed=beside.missed,
        **summarize(points, request.threats, points.shares_8bit(), request.union_only),
    )
