"""Finds what an evaluation is about: the run or the model that a user names, and the threats it is judged by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustctl import runs, user_code
from robustctl.conventions import CONVENTIONS
from robustctl.data import Columns, Reading
from robustctl.errors import RequestError
from robustctl.models.find import find_model
from robustctl.progress import say
from robustctl.threats import NORMS, Norm, Threat, parse_norm
from robustctl.workflows.coded_model import coded_model, dataset_of, require_alone
from robustctl.workflows.images import load_images
from robustctl.workflows.obtain import obtain

if TYPE_CHECKING:
    from robustctl.models.find import FoundModel
    from robustctl.runs import RunRecord


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated and the run that made it, if one did."""

    found_model: "FoundModel"
    record: "RunRecord | None"
    eval_dir: Path

    def default_data(self) -> str:
        """The images that it was trained on, else its data set's usual source; RequestError if neither is known."""
        dataset = self.found_model.spec.dataset
        if self.record is not None:
            return str(self.record.data["source"])
        if dataset not in CONVENTIONS:
            raise RequestError(f"data set {dataset!r} has no usual source; say where its images are with --data")
        return CONVENTIONS[dataset].source

    def default_reading(self) -> Reading:
        """Columns and classes that were said when it was trained, for its own data."""
        recorded = self.record.data if self.record else {}
        return Reading(Columns.parse(recorded.get("columns")), recorded.get("classes"))

    def default_threats(self) -> tuple[Threat, ...]:
        """The threats that its recipe evaluates, else its data set's usual ones; empty if neither is known."""
        if self.record is not None:
            radii = self.record.recipe["evaluate"]["threats"]
            return tuple(Threat.of(norm, str(text)) for norm, text in radii.items())
        dataset = self.found_model.spec.dataset
        return CONVENTIONS[dataset].threats if dataset in CONVENTIONS else ()


def find_subject(text: str | None, *, fetch: bool = True) -> Subject:
    """The run or model that the user names; the newest run for None. Raises RequestError when there is none.

    The weights of an entry are fetched if they are not here, unless ``fetch`` is false. A run means its last weights;
    if it did not do all of its steps, a line says so.
    """
    run = runs.newest() if text is None else runs.find(text)
    if run is None:
        assert text is not None
        found_model = obtain(text) if fetch else find_model(text)
        made_by = runs.find(str(found_model.weights.resolve().parent))  # for RUN/best.safetensors
        return Subject(found_model, made_by.read() if made_by else None, runs.eval_dir_of(found_model.name))
    record, status = run.read(), run.status()
    if status in ("running", "stopped"):
        say(f"{run.name} is {status}: these are the weights that it saved last")
    elif record.step < record.steps:
        say(f"{run.name} did {record.step} of its {record.steps} steps: these are its last weights")
    return Subject(obtain(str(run.path)), record, run.eval_dir)


@contextmanager
def open_subject(
    model: str | None,
    *,
    model_code: str | None,
    weights: Path | None,
    data: str | None,
    split: str,
    reading: Reading | None = None,
    fetch: bool = True,
) -> Iterator[Subject]:
    """The subject of an evaluation while the block runs: as ``find_subject``, or what the user's own code builds.

    Args:
        model_code: as ``user_code.parse`` takes it; without ``model`` it builds the subject, else it is granted to it.
        weights: file to load into what it builds.
        data, split, reading: the images; the code is told their size and classes.
        fetch: as ``find_subject`` has it.

    Raises:
        RequestError: no such model, or the code or the weights are wrong.
    """
    code = user_code.parse("--model-code", model_code) if model_code else None
    require_alone(code, weights, model)
    with user_code.granted(code):
        if code is None or model is not None:
            yield find_subject(model, fetch=fetch)
            return
        if data is None:
            raise RequestError("--model-code: say what images the model takes, e.g. --data digits")
        images = load_images(data, split, 1, reading=reading)
        with coded_model(code, weights, images.shape, images.n_classes, dataset_of(data)) as found_model:
            yield Subject(found_model, None, runs.eval_dir_of(found_model.name))


def choose_threats(subject: Subject, norms: str | None, eps: str | None) -> tuple[Threat, ...]:
    """Threats of ``--norms`` and ``--eps``, filled up from the subject's own; in the order of the tables.

    Raises:
        RequestError: as ``threats_of``.
    """
    return threats_of(subject.default_threats(), subject.found_model.spec.dataset, norms, eps)


def threats_of(usual: Sequence[Threat], dataset: str, norms: str | None, eps: str | None) -> tuple[Threat, ...]:
    """Threats of ``--norms`` and ``--eps``, filled up from the usual ones; in the order of the tables.

    Raises:
        RequestError: unknown or repeated norm, bad radius, a radius for a norm that is not asked for, or none known.
    """
    radii = {threat.norm: threat for threat in usual}
    written = _parse_eps(eps)
    chosen = _parse_norms(norms) if norms else list(dict.fromkeys([*radii, *written]))
    if extra := [norm for norm in written if norm not in chosen]:
        raise RequestError(f"--eps names {extra[0]}, which --norms {norms} leaves out")
    radii |= written
    if missing := [norm for norm in chosen if norm not in radii]:
        raise RequestError(f"no usual radius is known for {', '.join(missing)}; give it: --eps {missing[0]}:RADIUS")
    if not chosen:
        raise RequestError(
            f"no usual radii are known for data set {dataset!r}; give them, e.g. --eps linf:8/255,l2:0.5,l1:12"
        )
    return tuple(radii[norm] for norm in NORMS if norm in chosen)


def _parse_norms(text: str) -> list[Norm]:
    chosen = [parse_norm(part.strip()) for part in text.split(",")]
    if len(set(chosen)) < len(chosen):
        raise RequestError(f"--norms {text} names a norm twice")
    return chosen


def _parse_eps(text: str | None) -> dict[Norm, Threat]:
    threats: dict[Norm, Threat] = {}
    for part in text.split(",") if text else []:
        norm, separator, radius = part.partition(":" if ":" in part else "=")
        if not separator:
            raise RequestError(f"--eps {part!r} is not of the form norm:radius, e.g. linf:8/255,l1:12")
        threat = Threat.of(norm.strip(), radius.strip())
        if threat.norm in threats:
            raise RequestError(f"--eps names {threat.norm} twice")
        threats[threat.norm] = threat
    return threats
