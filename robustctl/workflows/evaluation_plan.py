"""Dry runs of evaluations: they say what would run and how long it takes, and write nothing."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from robustctl.architectures import empty_copy
from robustctl.data import ImageData
from robustctl.devices import pick_device
from robustctl.errors import RunError
from robustctl.evaluation import adaptive, corrupted, decision, reference, union
from robustctl.evaluation.external import External
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.identity import describe, evaluation_key
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.protocols import ROUNDS, families
from robustctl.evaluation.store_key import place
from robustctl.evaluation.union_request import UnionRequest
from robustctl.intermediate.evaluate import evaluate_intermediate
from robustctl.intermediate.request import IntermediateRequest
from robustctl.models.find import FoundModel
from robustctl.perturbations.base import Limit
from robustctl.processes import ALONE, local_device, require_one
from robustctl.progress import duration, say
from robustctl.suites import Suite
from robustctl.threats import Reach, Threat, require_plausible, unusual
from robustctl.workflows.evaluate_curve import require_reaches, say_time
from robustctl.workflows.evaluate_suite import (
    SuiteOptions,
    published_images,
    require_suite,
    rounds_of,
    say_threats,
)
from robustctl.workflows.images import NamedImages
from robustctl.workflows.prepared import Prepared, prepare
from robustctl.workflows.subject import Subject


def rehearse(
    subject: Subject, request: UnionRequest, named: NamedImages, *, device: str, attacks: Sequence[External] = ()
) -> None:
    """Check all that the evaluation would refuse, and say what it takes. It takes the arguments of ``evaluate``.

    Raises:
        RequestError: as ``evaluate``.
        RunError: weights or images are not here and cannot be fetched now; everything else was said.
    """
    require_one("eval --dry-run")
    union.require_protocol(request.protocol, [threat.norm for threat in request.threats])
    found_model = subject.found_model
    spec = found_model.spec
    if not request.force:
        require_plausible(request.threats, spec.input_shape)
    for line in unusual(request.threats, spec.input_shape):
        say(line)
    say(f"evaluate {_described(found_model)}")
    say(f"threats: {', '.join(map(str, request.threats))}, seed {request.seed}")
    say(f"protocol {request.protocol}: {_protocol(request)}")
    for one in attacks:
        say(f"and {one.name}, whose cost is not known")
    about = _bring(subject, named, device, lambda data: _say_cost(request, data, spec.n_classes, None))
    for flag in about.flags():
        say(flag)
    with about.setting("standard", request.seed, request.batch_size) as setup:
        _say_cost(request, about.data, spec.n_classes, setup)
        for path in _begun(setup, request, subject.eval_dir):
            say(f"verdicts are here already; the evaluation goes on from {path}")


def rehearse_suite(
    subject: Subject, name: str, suite: Suite, options: SuiteOptions, named: NamedImages, *, device: str
) -> None:
    """Check all that the evaluation of a suite would refuse, and say what it takes if nothing is stored yet.

    Raises:
        RequestError: as ``evaluate_suite``.
        RunError: weights or images are not here and cannot be fetched now.
    """
    require_one("eval --dry-run")
    spec = subject.found_model.spec
    require_suite(name, suite, options, spec)
    members = suite.members(spec.dataset).values()
    say(f"evaluate {_described(subject.found_model)}")
    say(f"suite {name}: {', '.join(map(str, [*members, *suite.chosen_corruptions]))}; seed {options.seed}")
    about = _bring(subject, named, device)
    with (
        about.setting(options.effort, options.seed, options.batch_size) as setup,
        tempfile.TemporaryDirectory() as folder,
    ):
        for threats in rounds_of([one for one in members if isinstance(one, Threat)]):
            say(f"{', '.join(map(str, threats))}: protocol {options.protocol}")
            request = UnionRequest(threats, options.protocol, options.seed, options.batch_size)
            _say_cost(request, about.data, spec.n_classes, setup)
        say_threats(setup, {str(one): one for one in members if isinstance(one, Limit)}, Path(folder))
        published, names, _, _ = published_images(setup, suite, options)
        if names:
            say(f"about {duration(corrupted.seconds(setup, names, published))} for corrupted images")


def rehearse_curve(
    subject: Subject,
    reaches: Sequence[Reach],
    up_to: float,
    named: NamedImages,
    *,
    by_decision: bool,
    seed: int,
    batch_size: int,
    device: str,
) -> None:
    """Check all that accuracy against radius would refuse, and say what it takes; arguments and errors as there."""
    require_one("eval --dry-run")
    require_reaches(reaches, up_to, by_decision, subject.found_model.spec)
    say(f"evaluate {_described(subject.found_model)}")
    say(f"accuracy at every radius up to {', '.join(str(one.times(up_to)) for one in reaches)}; seed {seed}")
    about = _bring(subject, named, device)
    with about.setting("standard", seed, batch_size) as setup:
        if not setup.gradient:
            decision.require()
        say_time(setup, reaches, by_decision, ALONE)


def rehearse_intermediate(subject: Subject, request: IntermediateRequest, named: NamedImages, *, device: str) -> None:
    """Check all that intermediate-q robustness would refuse, and measure one image to say what all of them take.

    Raises:
        RequestError, RunError: as ``evaluate_intermediate``.
    """
    require_one("eval --dry-run")
    request.require()
    spec = subject.found_model.spec
    request.perturbation.require(spec.input_shape)
    say(f"evaluate {_described(subject.found_model)}")
    qs = ", ".join(f"{q:g}" for q in request.qs)
    say(f"intermediate-q robustness for q = {qs} in {request.perturbation}, estimator {request.estimator}")
    about = _bring(subject, named, device)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        evaluate_intermediate(
            about.model.cpu(),
            spec,
            about.data.select([0]),
            request,
            name=about.name,
            device=local_device(pick_device(device)),
            store_path=Path(folder, "first.sqlite"),
        )
    seconds = time.monotonic() - started
    say(f"about {duration(seconds * len(about.data))}; the first image took {duration(seconds)}, and others may differ")


def _bring(
    subject: Subject, named: NamedImages, device: str, without_weights: Callable[[ImageData], None] = lambda _: None
) -> Prepared:
    """The model and its images, with a line about them.

    Args:
        without_weights: says what is known all the same if the images are here and the weights are not.

    Raises:
        RequestError: they do not fit together.
        RunError: weights or images are not here; lines say what to bring.
    """
    found_model = subject.found_model
    try:
        about = prepare(subject, named, device) if found_model.weights.is_file() else None
        data = about.data if about else named.load(found_model.spec)
    except RunError as error:
        say(f"to bring: the images of {named.source}")
        _say_weights(subject)
        raise RunError(f"nothing was started: {error}") from None
    say(f"images: {len(data)} of {data.info.text}")
    if about is not None:
        return about
    _say_weights(subject)
    without_weights(data)
    raise RunError(f"nothing was started: the weights of {found_model.name} are not here")


def _described(found_model: FoundModel) -> str:
    return f"{found_model.name} ({found_model.spec.architecture.name}{_size(found_model)})"


def _size(found_model: FoundModel) -> str:
    """The number of parameters in words, counted or from the entry; empty if neither is known."""
    model, entry = empty_copy(found_model.spec), found_model.entry
    known = sum(one.numel() for one in model.parameters()) if model else entry.parameters if entry else None
    return f", {known:,} parameters" if known else ""


def _say_weights(subject: Subject) -> None:
    found_model = subject.found_model
    if not found_model.weights.is_file():
        say(f"to bring: the weights of {found_model.name}, with robustctl pull {found_model.name}")


def _protocol(request: UnionRequest) -> str:
    """The attacks of a protocol, or the names of its rounds, which are many."""
    if request.protocol not in ROUNDS:
        return describe(request)
    names = dict.fromkeys(one.name for threat in request.threats for one in ROUNDS[request.protocol][threat.norm])
    return f"rounds {', '.join(names)}; each follows from what the last one broke"


def _say_cost(request: UnionRequest, data: ImageData, n_classes: int, setup: Setup | None) -> None:
    """Say the gradient evaluations and, if the model is here, the time that one batch of them took."""
    n = len(data)
    if request.protocol in ROUNDS:
        spent = adaptive.unbroken_cost(request.protocol, request.threats, n, n_classes)
    elif request.protocol == reference.NAME:
        costs = [reference.cost(one.norm, attack, n_classes) for one in request.threats for attack in reference.ATTACKS]
        spent = round(n * sum(costs))
    else:
        named = [family for one in request.threats for family in families(request.protocol, one.norm)]
        spent = round(n * sum(family.cost(n_classes) for family in named))
    bound = "about" if request.protocol in ROUNDS else "at most"
    text = f"cost: {bound} {spent:,} gradient evaluations, if all {n} points are right and none breaks"
    if setup is not None:
        size = min(request.batch_size, n)
        seconds = seconds_per_batch(setup.oracle, data, size) / size
        text += f"; the network alone takes {duration(seconds * spent)} for them, "
        text += f"at {1000 * seconds:.3g} ms each, measured on a batch in float32"
    say(f"{text}. The attacks' own arithmetic, verdicts and a second opinion on some survivors add to it")


def _begun(setup: Setup, request: UnionRequest, folder: Path) -> Iterator[Path]:
    """The stores of this very evaluation, in whichever precision and order in memory it was begun."""
    random, copied = setup.passes > 1, setup.oracle.attacked is not setup.model
    ways = itertools.product(dict.fromkeys((request.precision, "float32")), (True, False))
    for precision, channels_last in ways:
        one = replace(request, precision=precision, channels_last=channels_last, fast_copy=copied, random=random)
        key = evaluation_key(setup.model, setup.spec, setup.data, one)
        path = place(folder, f"{request.protocol}-{len(setup.data)}", key)
        if path.exists():
            yield path
