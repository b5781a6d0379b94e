"""The ``--intermediate-q`` half of ``robustctl eval``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import typer

from robustctl.discovery import unknown
from robustctl.errors import RequestError

if TYPE_CHECKING:
    from robustctl.cli.eval import Subject
    from robustctl.intermediate.evaluate import IntermediateRequest
    from robustctl.sampling.perturbation import Perturbation
    from robustctl.threats import Threat


@dataclass(frozen=True)
class Options:
    """The options as typed; see ``robustctl eval --help``."""

    qs: str
    distribution: str | None
    estimator: str
    grid: str
    samples: int
    leapfrog: int
    chains: int
    probacc: str
    seed: int
    batch_size: int


def run(
    subject: "Subject", options: Options, *, source: str, split: str, n: int | None, device: str, json: Path | None
) -> None:
    """Evaluate, print the table, write the result into the subject's ``eval`` directory and to ``json``."""
    request = make_request(subject, options)
    request.require()
    request.perturbation.require(subject.located.spec.input_shape)
    from robustctl import checkpoint
    from robustctl.evaluation.store import digest
    from robustctl.files import writing
    from robustctl.intermediate.evaluate import evaluate_intermediate, evaluation_key
    from robustctl.oracle import pick_device
    from robustctl.report.q_table import table
    from robustctl.workflows.images import load_images

    chosen_device = pick_device(device)
    spec = subject.located.spec
    images = load_images(source, split, n, spec)
    model = checkpoint.load_from(spec, subject.located.weights)
    key = digest(evaluation_key(model, spec, images, request))
    with writing(subject.eval_dir):
        subject.eval_dir.mkdir(parents=True, exist_ok=True)
    path = subject.eval_dir / f"intermediate-{len(images)}-{key[:12]}.json"
    result = evaluate_intermediate(
        model,
        spec,
        images,
        request,
        name=subject.located.name,
        device=chosen_device,
        store_path=path.with_suffix(".sqlite"),
    )
    for target in filter(None, (path, json)):
        result.write(target)
    typer.echo(table(result))
    print(f"result: {path}", file=sys.stderr)


def make_request(subject: "Subject", options: Options) -> "IntermediateRequest":
    """The options as an evaluation understands them; RequestError for what cannot be read."""
    from robustctl.intermediate.evaluate import Estimator, IntermediateRequest
    from robustctl.sampling.estimators import GridName
    from robustctl.sampling.perturbation import Perturbation

    perturbation = Perturbation.parse(options.distribution or _usual_distribution(subject))
    return IntermediateRequest(
        perturbation=perturbation,
        qs=tuple(sorted(set(parse_numbers("--intermediate-q", options.qs)))),
        estimator=cast(Estimator, _choice("--estimator", options.estimator, get_args(Estimator))),
        grid=cast(GridName, _choice("--grid", options.grid, get_args(GridName))),
        samples=options.samples,
        leapfrog=options.leapfrog,
        chains=options.chains,
        rhos=tuple(parse_numbers("--probacc", options.probacc)),
        ball=_ball(subject, perturbation),
        seed=options.seed,
        batch_size=options.batch_size,
    )


def _usual_distribution(subject: "Subject") -> str:
    for threat in subject.default_threats():
        if threat.norm == "linf":
            return str(threat)
    raise RequestError("no usual l_inf radius is known for this model; give --distribution, e.g. linf:8/255")


def _ball(subject: "Subject", perturbation: "Perturbation") -> "Threat | None":
    """Where to attack: the ball itself; for Gaussian noise the model's usual l_2 ball, as in the thesis."""
    if perturbation.kind != "gaussian":
        return perturbation.threat
    return next((threat for threat in subject.default_threats() if threat.norm == "l2"), None)


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
