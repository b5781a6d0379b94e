"""Evaluates a suite: threats of every kind, common corruptions, and groups of them.

Each member has a store of its own, which it shares with other suites: a threat that was evaluated once is read from
there.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustctl.architectures import device_of
from robustctl.checkpoint import weights_sha256
from robustctl.corruptions import SEVERITIES
from robustctl.corruptions.published import Published
from robustctl.devices import device_name
from robustctl.errors import RequestError
from robustctl.evaluation import checks, corrupted, kind_threat, referee
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.store_key import digest, place
from robustctl.evaluation.union import require_protocol
from robustctl.evaluation.union_request import UnionRequest
from robustctl.files import make_folder
from robustctl.perturbations.base import EFFORTS, Limit
from robustctl.processes import World, join
from robustctl.progress import duration, progress, say
from robustctl.results.result_file import Accuracy
from robustctl.results.suite import (
    LeftOut,
    Member,
    SuitePoints,
    SuiteResult,
    corruption_figures,
    group_figures,
)
from robustctl.results.union import UnionResult
from robustctl.spec import ModelSpec
from robustctl.suites import Suite
from robustctl.threats import Threat
from robustctl.version import versions
from robustctl.workflows.evaluate import CURVES, THREATS, evaluate
from robustctl.workflows.images import NamedImages
from robustctl.workflows.prepared import Prepared, prepare
from robustctl.workflows.subject import Subject

MADE_HERE = "made from the clean images with the constants of CIFAR-10-C"
CORRUPTED = re.compile(r"(?:^|,)(cifar100?-c)=(.*)$")


@dataclass(frozen=True)
class SuiteOptions:
    """How a suite is evaluated.

    Attributes:
        protocol: of the norms; other threats know ``fast``, and ``standard`` for every other protocol.
        seed: any whole number >= 0. batch_size: images per forward pass.
        corrupted: folder of published corrupted images; None makes them from the clean ones.
    """

    protocol: str
    seed: int
    batch_size: int
    corrupted: Path | None = None

    @property
    def effort(self) -> str:
        """The effort for threats that are no norms."""
        return "fast" if self.protocol == "fast" else "standard"


def split_data(text: str | None) -> tuple[str | None, Path | None]:
    """The clean images and the folder of corrupted ones in ``--data CLEAN,cifar10-c=FOLDER``; either may be missing."""
    found = CORRUPTED.search(text or "")
    if found is None:
        return text, None
    return (text or "")[: found.start()] or None, Path(found.group(2)).expanduser()


Unions = Callable[[tuple[Threat, ...]], UnionResult | None]
"""Evaluates threats of different norms; None in all but the first of torchrun's processes."""


def evaluate_suite(
    subject: Subject,
    name: str,
    suite: Suite,
    options: SuiteOptions,
    images: NamedImages,
    *,
    device: str,
) -> tuple[SuiteResult | None, Path]:
    """Evaluate a subject on the images that the user names; stores and result go below its ``eval_dir``.

    Returns:
        The result (None in all but the first of torchrun's processes) and its file.

    Raises:
        RequestError: a threat that does not exist or that the images cannot have, and as ``evaluate``.
        RunError: as ``evaluate``; what was done stays, and the same command goes on.
    """

    def unions(threats: tuple[Threat, ...]) -> UnionResult | None:
        request = UnionRequest(threats, options.protocol, options.seed, options.batch_size)
        result, path = evaluate(subject, request, images, device=device)
        say(f"{', '.join(map(str, threats))}: {path}")
        return result

    require_suite(name, suite, options, subject.found_model.spec)
    about = prepare(subject, images, device)
    return evaluate_prepared(about, name, suite, options, unions, join())


def require_suite(name: str, suite: Suite, options: SuiteOptions, spec: ModelSpec) -> None:
    """Raise RequestError, before anything is loaded, if a model's images cannot have a threat of the suite."""
    members = suite.members(spec.dataset)
    require_protocol(options.protocol, [one.norm for one in members.values() if isinstance(one, Threat)])
    if options.corrupted is not None and not suite.chosen_corruptions:
        raise RequestError(f"--data: {name} names no corruption, so the images in {options.corrupted} are not read")
    for limit in members.values():
        if isinstance(limit, Limit):
            limit.kind.require(spec.input_shape, limit.budget)


def evaluate_prepared(
    about: Prepared, name: str, suite: Suite, options: SuiteOptions, unions: Unions, world: World
) -> tuple[SuiteResult | None, Path]:
    """Evaluate a model that is loaded; the rest is as ``evaluate_suite``.

    Args:
        unions: evaluates the norms of the suite. world: torchrun's processes, which share the points.
    """
    started = time.monotonic()
    data, members = about.data, suite.members(about.spec.dataset)
    limits = {text: one for text, one in members.items() if isinstance(one, Limit)}
    norms = {text: one for text, one in members.items() if isinstance(one, Threat)}
    evaluated = [unions(part) for part in rounds_of(list(norms.values()))]
    folder = about.eval_dir / THREATS
    make_folder(folder)
    flags = about.flags()
    with about.setting(options.effort, options.seed, options.batch_size) as setup:
        found = _attack(setup, limits, folder, world)
        rows, left_out, made, sha256 = _corrupt(setup, suite, options, folder, world)
        clean = [int(right) for right in _clean(setup)] if world.leads else []
    asked = {"suite": suite.model_dump(mode="json"), "members": [str(one) for one in members.values()]}
    effort = f"norms: {options.protocol}; others: {options.effort} ({EFFORTS[options.effort]})"
    weights = weights_sha256(about.model)
    short = digest({**asked, "images": data.content_sha256, "made": [made, sha256], "seed": options.seed,
                    "weights": weights, "effort": effort})[:12]  # fmt: skip
    path = folder / f"suite-{name}-{len(data)}-{short}.json"
    if not world.leads:
        return None, path
    of_norms = [one for one in evaluated if one is not None]
    points = SuitePoints(
        index=data.indices.tolist(),
        label=data.y.tolist(),
        clean=clean,
        robust={text: _robust(members[text], of_norms, found.get(text), clean) for text in members},
        corrupted=rows,
    )
    flags += [flag for one in found.values() for flag in one.flags]
    flags += [flag for one in of_norms for flag in one.flags if flag not in flags]
    if setup.gradient:
        flags += checks.gradient_flags(about.model, data, [i for i, right in enumerate(clean) if right])
    groups = {group: [one for one in names if points.has(one)] for group, names in suite.groups.items()}
    result = SuiteResult(
        model=about.name,
        weights_sha256=weights,
        data=data.info,
        suite=name,
        effort=effort,
        seed=options.seed,
        clean=Accuracy.of(clean),
        members=[_member(text, members[text], points, of_norms, found.get(text)) for text in members],
        corruptions=corruption_figures(points, made, sha256) if rows else None,
        groups=[group_figures(group, names, points) for group, names in groups.items() if names],
        left_out=left_out,
        flags=list(dict.fromkeys(flags)),
        seconds=round(time.monotonic() - started, 3),
        device=device_name(device_of(about.model)),
        versions=versions(),
        points=points,
    )
    result.write(path)
    return result, path


def rounds_of(norms: Sequence[Threat]) -> list[tuple[Threat, ...]]:
    """Group the threats into as few evaluations of a union as possible; no union has a norm twice."""
    rounds: list[list[Threat]] = []
    for threat in norms:
        free = [one for one in rounds if threat.norm not in {other.norm for other in one}]
        if free:
            free[0].append(threat)
        else:
            rounds.append([threat])
    return [tuple(one) for one in rounds]


def _attack(setup: Setup, limits: dict[str, Limit], folder: Path, world: World) -> dict[str, kind_threat.Found]:
    """Time every threat on a few images, say how long they take together, then attack; findings are the leader's."""
    paths = {text: _place(setup, limit, folder) for text, limit in limits.items()}
    if not limits:
        return {}
    if world.leads:
        say_threats(setup, limits, folder, world.size)
    world.wait()
    units = sum(_cost(setup, limit) for limit in limits.values())
    found: dict[str, kind_threat.Found] = {}
    with progress(f"attacking {len(setup.data)} points", round(units * len(setup.data))) as advance:
        for text, limit in limits.items():
            others = sorted([*folder.glob(f"{limit.name}-*.sqlite"), *(folder.parent / CURVES).glob("l0-*.sqlite")])
            one = kind_threat.evaluate(setup, limit, paths[text], others, advance, world)
            found |= {text: one} if one is not None else {}
    return found


def say_threats(setup: Setup, limits: dict[str, Limit], folder: Path, processes: int = 1) -> None:
    """Time the threats that are no norms, and say how long what their stores in the folder lack takes at most."""
    seconds = {
        limit: kind_threat.seconds_left(setup, limit, _place(setup, limit, folder)) / processes
        for limit in limits.values()
    }
    if total := sum(seconds.values()):
        parts = ", ".join(f"{limit} {duration(one)}" for limit, one in seconds.items() if one)
        say(f"at most about {duration(total)} if nothing breaks: {parts}")


def _place(setup: Setup, limit: Limit, folder: Path) -> Path:
    key = kind_threat.key(setup, limit)
    return place(folder, f"{limit.name}-{setup.effort}-{len(setup.data)}", key)


def _cost(setup: Setup, limit: Limit) -> float:
    return sum(one.cost(EFFORTS[setup.effort]) for one in limit.kind.families().values())


def _corrupt(
    setup: Setup, suite: Suite, options: SuiteOptions, folder: Path, world: World
) -> tuple[dict[str, list[list[int]]], list[LeftOut], str, dict[str, str]]:
    """Verdicts on corrupted images, corruptions whose images are missing, makers of the images, hashes of files."""
    published, names, left_out, sha256 = published_images(setup, suite, options)
    if not suite.chosen_corruptions:
        return {}, [], "", {}
    made = f"published files in {options.corrupted.name}" if options.corrupted else MADE_HERE
    rows: dict[str, list[list[int]]] = {}
    hashed = {name: {name: sha256[name]} if sha256 else {} for name in names}
    stem = f"corrupted-{len(setup.data)}"
    paths = {name: place(folder, stem, corrupted.key(setup, one)) for name, one in hashed.items()}
    if world.leads and (left := [name for name in names if not paths[name].exists()]):
        say(f"about {duration(corrupted.seconds(setup, left, published) / world.size)} for corrupted images")
    with progress("corrupted images", len(names) * SEVERITIES * len(setup.data)) as advance:
        for name in names:
            rows |= corrupted.evaluate(setup, [name], published, paths[name], hashed[name], advance, world)
    return rows, left_out, made, sha256


def _clean(setup: Setup) -> list[bool]:
    votes: list[bool] = []
    for start in range(0, len(setup.data), setup.batch_size):
        positions = range(start, min(start + setup.batch_size, len(setup.data)))
        x, y = setup.data.images(positions), setup.data.y[list(positions)]
        votes += (~referee.vote(setup.model, x, y, setup.passes).wrong).tolist()
    return votes


def published_images(
    setup: Setup, suite: Suite, options: SuiteOptions
) -> tuple[Published | None, tuple[str, ...], list[LeftOut], dict[str, str]]:
    """The published images, corruptions whose images are here, the others with the reason, and hashes of files."""
    names = suite.chosen_corruptions
    if not names or options.corrupted is None:
        return None, names, [], {}
    published, here, left_out, sha256 = Published(options.corrupted), [], [], {}
    for name in names:
        try:
            published.require(name, setup.data.indices.tolist(), setup.data.y.tolist(), setup.data.shape)
            found = published.sha256(name)
            published.require_hash(name, found)
            sha256[name] = found
            here.append(name)
        except RequestError as error:
            say(f"left out: {name}: {error}")
            left_out.append(LeftOut(name=name, reason=str(error)))
    return published, tuple(here), left_out, sha256


def _of_norm(threat: Threat, unions: Sequence[UnionResult]) -> UnionResult:
    return next(one for one in unions if threat.norm in one.norms and one.norms[threat.norm].eps == threat.eps)


def _robust(
    member: Threat | Limit, unions: Sequence[UnionResult], found: kind_threat.Found | None, clean: list[int]
) -> list[int]:
    if isinstance(member, Threat):
        return _of_norm(member, unions).points.robust[member.norm]
    assert found is not None, "every other threat was evaluated"
    return [int(right and position not in found.broken) for position, right in enumerate(clean)]


def _member(
    text: str,
    member: Threat | Limit,
    points: SuitePoints,
    unions: Sequence[UnionResult],
    found: kind_threat.Found | None,
) -> Member:
    figures = Accuracy.of(points.robust[text]).model_dump()
    if isinstance(member, Threat):
        union = _of_norm(member, unions)
        return Member(
            **figures,
            name=text,
            threat=str(member),
            unit="of [0,1] pixels",
            source=f"protocol {union.attack.name}",
            by={},
            evaluations=None,
            seconds=union.seconds,
        )
    assert found is not None, "every other threat was evaluated"
    return Member(
        **figures,
        name=text,
        threat=str(member),
        unit=member.kind.unit,
        source=member.kind.source,
        by=found.by,
        evaluations=found.evaluations,
        seconds=round(found.seconds, 3),
    )
