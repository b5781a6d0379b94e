"""Lower bounds on robust accuracy."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import Json, require_target, save, say_table


def command(
    model: options.ModelOrNewestRun = None,
    norms: options.Norms = None,
    eps: options.Eps = None,
    model_code: options.ModelCode = None,
    weights: options.Weights = None,
    data: options.Data = None,
    split: options.Split = "test",
    columns: options.Columns = None,
    classes: options.Classes = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Only the first N images.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Passes made at a time.")] = 256,
    exact: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds for an exact verdict in l_inf and l_1, for each class that the bounds leave open; 0: bounds "
            "alone. It solves a mixed-integer program.",
        ),
    ] = 0.0,
    device: options.Device = "auto",
    json: Json = None,
) -> None:
    """Certify a small network of affine layers and ReLUs: accuracy that no attack can take away.

    Attacks give at most, certificates give at least. The same command again continues where it was stopped.
    """
    require_target(json)
    from robustctl.report.certificate_table import table
    from robustctl.workflows.certify import certify
    from robustctl.workflows.images import NamedImages, reading_of
    from robustctl.workflows.subject import choose_threats, open_subject

    said = reading_of(columns, classes) if columns or classes or data else None
    with open_subject(model, model_code=model_code, weights=weights, data=data, split=split, reading=said) as subject:
        result, path = certify(
            subject,
            choose_threats(subject, norms, ",".join(eps) if eps else None),
            NamedImages(data or subject.default_data(), split, n, said or subject.default_reading()),
            rows=batch_size,
            device=device,
            seconds=exact,
        )
    save(result.write, json)
    say_table(table(result), json)
    terminal.tell(f"result: {path}")
