"""Evaluates the intermediate-q robustness of a model that a user names."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from robustctl import checkpoint
from robustctl.devices import pick_device
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.evaluation.store_key import place
from robustctl.files import make_folder
from robustctl.intermediate import evaluate as intermediate
from robustctl.intermediate.request import GROWTH, Estimator, IntermediateRequest
from robustctl.intermediate.results import IntermediateResult
from robustctl.sampling.estimators import GridName
from robustctl.sampling.perturbation import Perturbation
from robustctl.threats import Threat
from robustctl.workflows.images import NamedImages
from robustctl.workflows.subject import Subject


@dataclass(frozen=True)
class IntermediateOptions:
    """An intermediate-q request as texts; see ``robustctl eval --help``."""

    qs: str
    distribution: str | None = None
    estimator: str = "both"
    grid: str = "graded"
    samples: int = 320
    most_samples: int | None = None
    leapfrog: int = 10
    chains: int = 4
    probacc: str = "0.1,0.05,0.01"
    seed: int = 0


def evaluate_intermediate(
    subject: Subject,
    request: IntermediateRequest,
    named: NamedImages,
    *,
    device: str,
) -> tuple[IntermediateResult, Path]:
    """Evaluate a subject on the images that the user names; measures and result go into its ``eval_dir``.

    Returns:
        The result and its file.

    Raises:
        RequestError, RunError: as ``intermediate.evaluate``, and if the model or the images cannot be loaded.
    """
    request.require()
    request.perturbation.require(subject.found_model.spec.input_shape)
    chosen_device = pick_device(device)
    spec = subject.found_model.spec
    images = named.load(spec)
    model = checkpoint.load_from(spec, subject.found_model.weights)
    key = intermediate.evaluation_key(model, spec, images, request)
    make_folder(subject.eval_dir)
    path = place(subject.eval_dir, f"intermediate-{len(images)}", key).with_suffix(".json")
    result = intermediate.evaluate_intermediate(
        model,
        spec,
        images,
        request,
        name=subject.found_model.name,
        device=chosen_device,
        store_path=path.with_suffix(".sqlite"),
    )
    result.write(path)
    return result, path


def intermediate_request(
    options: IntermediateOptions, usual: tuple[Threat, ...], batch_size: int
) -> IntermediateRequest:
    """The options as an evaluation understands them; RequestError for what cannot be read.

    Args:
        usual: the usual threats of the model or the data, if they are known.
        batch_size: images per model evaluation.
    """
    perturbation = Perturbation.parse(options.distribution or _usual_distribution(usual))
    return IntermediateRequest(
        perturbation=perturbation,
        qs=tuple(sorted(set(parse_numbers("--intermediate-q", options.qs)))),
        estimator=cast(Estimator, _choice("--estimator", options.estimator, get_args(Estimator))),
        grid=cast(GridName, _choice("--grid", options.grid, get_args(GridName))),
        samples=options.samples,
        most_samples=(1 + GROWTH) * options.samples if options.most_samples is None else options.most_samples,
        leapfrog=options.leapfrog,
        chains=options.chains,
        rhos=tuple(parse_numbers("--probacc", options.probacc)),
        ball=_ball(usual, perturbation),
        seed=options.seed,
        batch_size=batch_size,
    )


def _usual_distribution(usual: tuple[Threat, ...]) -> str:
    for threat in usual:
        if threat.norm == "linf":
            return str(threat)
    raise RequestError("no usual l_inf radius is known for this model; give --distribution, e.g. linf:8/255")


def _ball(usual: tuple[Threat, ...], perturbation: Perturbation) -> Threat | None:
    """Where to attack: the ball itself; for Gaussian noise the model's usual l_2 ball, as in the thesis."""
    if perturbation.kind != "gaussian":
        return perturbation.threat
    return next((threat for threat in usual if threat.norm == "l2"), None)


def parse_numbers(option: str, text: str) -> list[float]:
    """Read ``1,10,100``; RequestError that names the option otherwise."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"{option} {text!r} is not a list of numbers, e.g. 1,10,100") from None


def _choice(option: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise unknown(option, text, choices)
    return text
