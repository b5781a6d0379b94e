"""A dry run of an evaluation: it says which attacks would run and how long they take, and writes nothing."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from robustctl.architectures import empty_copy
from robustctl.data import ImageData
from robustctl.errors import RunError
from robustctl.evaluation import adaptive, reference, union
from robustctl.evaluation.external import External
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.identity import describe, evaluation_key
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.protocols import ROUNDS, families
from robustctl.evaluation.store_key import place
from robustctl.evaluation.union_request import UnionRequest
from robustctl.models.find import FoundModel
from robustctl.processes import require_one
from robustctl.progress import duration, say
from robustctl.threats import require_plausible, unusual
from robustctl.workflows.images import NamedImages
from robustctl.workflows.prepared import prepare
from robustctl.workflows.subject import Subject


def rehearse(
    subject: Subject, request: UnionRequest, named: NamedImages, *, device: str, attacks: Sequence[External] = ()
) -> None:
    """Check all that the evaluation would refuse, and say what it takes. Arguments are as of ``evaluate``.

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
    say(f"evaluate {found_model.name} ({spec.architecture.name}{_size(found_model)})")
    say(f"threats: {', '.join(map(str, request.threats))}, seed {request.seed}")
    say(f"protocol {request.protocol}: {_protocol(request)}")
    for one in attacks:
        say(f"and {one.name}, whose cost is not known")
    try:
        about = prepare(subject, named, device) if found_model.weights.is_file() else None
        data = about.data if about else named.load(spec)
    except RunError as error:
        say(f"to bring: the images of {named.source}")
        _say_weights(subject)
        raise RunError(f"nothing was started: {error}") from None
    say(f"images: {len(data)} of {data.info.text}")
    if about is None:
        _say_weights(subject)
        _say_cost(request, data, spec.n_classes, None)
        raise RunError(f"nothing was started: the weights of {found_model.name} are not here")
    for flag in about.flags():
        say(flag)
    with about.setting("standard", request.seed, request.batch_size) as setup:
        _say_cost(request, data, spec.n_classes, setup)
        for path in _begun(setup, request, subject.eval_dir):
            say(f"verdicts are here already; the evaluation goes on from {path}")


def _size(found_model: FoundModel) -> str:
    """The number of parameters in words: counted, else the entry's; empty if neither is known."""
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
