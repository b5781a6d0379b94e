"""Evaluates what a Python caller gives: a model or the name of one, and images or the name of a data set."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from robustctl import checkpoint, processes
from robustctl.architectures import Classifier, device_of
from robustctl.checkpoint import weights_sha256
from robustctl.conventions import CONVENTIONS
from robustctl.data import ImageData
from robustctl.data.classes import matched
from robustctl.data.image_data import count
from robustctl.devices import pick_device
from robustctl.errors import RequestError
from robustctl.evaluation import union
from robustctl.evaluation.external import External, Others
from robustctl.evaluation.families import default_batch_size, other_batch_sizes
from robustctl.evaluation.store_key import digest
from robustctl.evaluation.union_request import UnionRequest
from robustctl.files import make_folder, scratch
from robustctl.intermediate import evaluate as intermediate
from robustctl.intermediate.results import IntermediateResult
from robustctl.precision import pick_precision
from robustctl.results.curve import CurveResult
from robustctl.results.suite import SuiteResult
from robustctl.results.union import UnionResult
from robustctl.spec import ModelSpec
from robustctl.suites import Suite
from robustctl.threats import Threat
from robustctl.workflows import evaluate as named
from robustctl.workflows import evaluate_curve as named_curve
from robustctl.workflows import evaluate_intermediate as named_intermediate
from robustctl.workflows import evaluate_suite as named_suite
from robustctl.workflows.evaluate_intermediate import IntermediateOptions, intermediate_request
from robustctl.workflows.evaluate_suite import SuiteOptions
from robustctl.workflows.given_images import from_dataset, from_tensors
from robustctl.workflows.images import NamedImages, load_images
from robustctl.workflows.own_model import left_alone, wrap
from robustctl.workflows.prepared import Prepared
from robustctl.workflows.subject import Subject, find_subject

Model: TypeAlias = str | Path | nn.Module
Threats: TypeAlias = str | Threat | Sequence[str | Threat] | Mapping[str, str | float]


@dataclass(frozen=True)
class Images:
    """The images of an evaluation as the caller gives them; see ``robustctl.evaluate``."""

    images: Any = None
    labels: Any = None
    data: "str | Path | ImageData | Dataset[Any] | None" = None
    split: str = "test"
    n: int | None = None

    def __post_init__(self) -> None:
        if (self.images is None) != (self.labels is None):
            raise RequestError("images and labels go together")
        if self.images is not None and self.data is not None:
            raise RequestError("give images and labels, or data, not both")

    @property
    def source(self) -> str | None:
        """The data set's name or place, if the caller gives one."""
        return str(self.data) if isinstance(self.data, str | Path) else None

    @property
    def in_memory(self) -> bool:
        """Whether the caller gives the images themselves."""
        return self.images is not None or not (self.data is None or self.source)

    def named(self, subject: Subject) -> NamedImages:
        """The images by their name; the model's usual ones if the caller named none."""
        return NamedImages(self.source or subject.default_data(), self.split, self.n)

    def load(self, subject: Subject | None) -> ImageData:
        """Read them, or a named model's usual ones; RequestError if there are none or the model cannot take them."""
        if self.images is not None:
            return from_tensors(self.images, self.labels, self.n)
        if isinstance(self.data, ImageData):
            return self.data.select(range(count(self.n, len(self.data), self.data.where)))
        if self.data is None or self.source is not None:
            source = self.source or (subject.default_data() if subject else None)
            if source is None:
                raise RequestError("say what to evaluate on: images and labels, or data=")
            return load_images(source, self.split, self.n, subject.found_model.spec if subject else None)
        return from_dataset(cast("Dataset[Any]", self.data), self.n)


def evaluate_given(
    model: Model,
    images: Images,
    *,
    threats: Threats | None,
    protocol: str,
    attacks: Sequence[External],
    seed: int,
    batch_size: int | None,
    device: str | None,
    precision: str,
    union_only: bool,
    until: float | None,
    force: bool,
    store: Path | None,
    name: str | None,
) -> UnionResult:
    """Accuracy in each norm and in their union; see ``robustctl.evaluate``."""
    subject = None if isinstance(model, nn.Module) else find_subject(str(model))
    where = _device(model, device)
    usual = _usual_threats(subject, images)
    if not (chosen := parse_threats(threats) if threats is not None else usual):
        raise RequestError('no usual radii are known for these images; give threats="linf:8/255,l2:0.5,l1:12", say')
    union.require_protocol(protocol, [threat.norm for threat in chosen])
    request = UnionRequest(
        chosen,
        protocol,
        seed,
        batch_size or default_batch_size(where),
        pick_precision(precision, where),
        union_only,
        force,
        measure=precision == "auto",
        other_sizes=() if batch_size else other_batch_sizes(where),
        until=until,
    )
    if subject and store is None and name is None and not images.in_memory and processes.count() == 1:
        result, _ = named.evaluate(subject, request, images.named(subject), device=str(where), attacks=attacks)
    else:
        data = images.load(subject)
        with _classifier(model, subject, data, where) as (classifier, spec, called), _stored(store) as path:
            result = union.evaluate_union(
                classifier,
                spec,
                matched(data, spec),
                request,
                name=name or called,
                device=where,
                store_path=path,
                recorded=named.recorded_accuracy(subject) if subject else None,
                alone=True,
                others=Others(attacks),
            )
    assert result is not None, "only torchrun's other processes get none, and this one works alone"
    return result


def evaluate_intermediate_given(
    model: Model,
    images: Images,
    options: IntermediateOptions,
    *,
    batch_size: int | None,
    device: str | None,
    store: Path | None,
    name: str | None,
) -> IntermediateResult:
    """Intermediate-q robustness; see ``robustctl.evaluate_intermediate``."""
    subject = None if isinstance(model, nn.Module) else find_subject(str(model))
    where = _device(model, device)
    request = intermediate_request(options, _usual_threats(subject, images), batch_size or default_batch_size(where))
    if subject and store is None and name is None and not images.in_memory:
        place = images.named(subject)
        return named_intermediate.evaluate_intermediate(subject, request, place, device=str(where))[0]
    data = images.load(subject)
    with _classifier(model, subject, data, where) as (classifier, spec, called), _stored(store) as path:
        return intermediate.evaluate_intermediate(
            classifier, spec, matched(data, spec), request, name=name or called, device=where, store_path=path
        )


def evaluate_suite_given(
    model: Model,
    images: Images,
    name: str,
    suite: Suite,
    options: SuiteOptions,
    *,
    device: str | None,
    store: Path | None,
    called: str | None,
) -> SuiteResult:
    """A suite of threats and corruptions; see ``robustctl.evaluate_suite``."""
    with _prepared(model, images, device, store, called) as about:
        named_suite.require_suite(name, suite, options, about.spec)

        def unions(threats: tuple[Threat, ...]) -> UnionResult | None:
            request = UnionRequest(threats, options.protocol, options.seed, options.batch_size)
            asked = {"threats": [str(one) for one in threats], "images": about.data.content_sha256}
            short = digest({**asked, "weights": weights_sha256(about.model)})[:12]
            return union.evaluate_union(
                about.model,
                about.spec,
                about.data,
                request,
                name=about.name,
                device=device_of(about.model),
                store_path=about.eval_dir / f"{options.protocol}-{len(about.data)}-{short}.sqlite",
                recorded=about.recorded,
                alone=True,
            )

        result, _ = named_suite.evaluate_prepared(about, name, suite, options, unions, processes.ALONE)
    assert result is not None, "only torchrun's other processes get none, and this one works alone"
    return result


def evaluate_curve_given(
    model: Model,
    images: Images,
    *,
    norms: str | None,
    eps: str | None,
    up_to: float,
    by_decision: bool,
    seed: int,
    batch_size: int | None,
    device: str | None,
    store: Path | None,
    called: str | None,
) -> CurveResult:
    """Accuracy against radius; see ``robustctl.evaluate_curve``."""
    subject = None if isinstance(model, nn.Module) else find_subject(str(model))
    usual = _usual_threats(subject, images)
    with _prepared(model, images, device, store, called) as about:
        reaches = named_curve.reaches_of(usual, about.spec.dataset, norms, eps)
        named_curve.require_reaches(reaches, up_to, by_decision, about.spec)
        size = batch_size or default_batch_size(device_of(about.model))
        result, _ = named_curve.curve_of(about, reaches, up_to, by_decision, seed, size, processes.ALONE)
    assert result is not None, "only torchrun's other processes get none, and this one works alone"
    return result


@contextmanager
def _prepared(
    model: Model, images: Images, device: str | None, store: Path | None, called: str | None
) -> Iterator[Prepared]:
    """The caller's model and images, ready to be evaluated.

    Stores lie in the caller's folder; without one, a named model on named data has its usual place, and everything else
    a folder that is deleted afterwards.
    """
    subject = None if isinstance(model, nn.Module) else find_subject(str(model))
    data, recorded = images.load(subject), named.recorded_accuracy(subject) if subject else None
    with scratch() as directory:
        usual = subject.eval_dir if subject and called is None and not images.in_memory else directory
        folder = store or usual
        make_folder(folder)
        with _classifier(model, subject, data, _device(model, device)) as (classifier, spec, name):
            yield Prepared(classifier.eval(), spec, matched(data, spec), called or name, folder, recorded)


def parse_threats(threats: Threats) -> tuple[Threat, ...]:
    """Read threats: ``"linf:8/255,l2:0.5"``, a list of such texts or ``Threat``s, or ``{"linf": "8/255"}``.

    Raises:
        RequestError: unknown norm, bad radius, a norm twice, or none at all.
    """
    if isinstance(threats, Mapping):
        found = [Threat.of(norm, str(eps)) for norm, eps in threats.items()]
    else:
        parts = threats.split(",") if isinstance(threats, str) else threats
        parts = [parts] if isinstance(parts, Threat) else parts
        found = [part if isinstance(part, Threat) else Threat.parse(part.strip()) for part in parts]
    norms = [threat.norm for threat in found]
    if len(set(norms)) < len(norms) or not found:
        raise RequestError(f"threats {threats!r}: give at least one threat, and one per norm")
    return tuple(sorted(found, key=lambda threat: ("linf", "l2", "l1").index(threat.norm)))


def _device(model: Model, device: str | None) -> torch.device:
    """A module stays on its device unless the caller says otherwise."""
    return device_of(model) if isinstance(model, nn.Module) and device is None else pick_device(device or "auto")


def _usual_threats(subject: Subject | None, images: Images) -> tuple[Threat, ...]:
    if subject is not None:
        return subject.default_threats()
    source = images.data.source if isinstance(images.data, ImageData) else images.source
    return next((one.threats for one in CONVENTIONS.values() if one.source == source), ())


@contextmanager
def _classifier(
    model: Model, subject: Subject | None, data: ImageData, device: torch.device
) -> Iterator[tuple[Classifier, ModelSpec, str]]:
    """The model on the device, its spec and what to call it; a caller's module is left as it was."""
    if subject is not None:
        spec = subject.found_model.spec
        yield checkpoint.load_from(spec, subject.found_model.weights).to(device), spec, subject.found_model.name
        return
    assert isinstance(model, nn.Module)
    with left_alone(model):
        module = model if device_of(model) == device else copy.deepcopy(model).to(device)
        known = next((key for key, one in CONVENTIONS.items() if one.source == data.source), None)
        classifier, spec = wrap(module, data, name=type(model).__qualname__, dataset=known)
        yield classifier, spec, type(model).__qualname__


@contextmanager
def _stored(store: Path | None) -> Iterator[Path]:
    """The file of the verdicts: the caller's, else one that is deleted afterwards."""
    if store is not None:
        make_folder(store.absolute().parent)
        yield store
        return
    with scratch() as directory:
        yield directory / "verdicts.sqlite"
