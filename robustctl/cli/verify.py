"""Check what is claimed for a model."""

from typing import Annotated

import typer

from robustctl.cli import options
from robustctl.cli.output import Json, require_target, save, say_table


def command(
    what: Annotated[
        str,
        typer.Argument(
            help="USER/NAME[@REVISION], file:///path, a directory, a run, or the JSON file of a result.",
            autocompletion=options.model_names,
        ),
    ],
    data: options.Data = None,
    columns: options.Columns = None,
    classes: options.Classes = None,
    sample: Annotated[int, typer.Option(help="Claimed survivors that are attacked anew, in each norm.")] = 20,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of that attack, to repeat it; without, one that nobody could know.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose result the file is, if its place does not tell.")] = None,
    model_code: options.ModelCode = None,
    device: options.Device = "auto",
    json: Json = None,
) -> None:
    """Recompute published figures from their witnesses, and attack a sample of what is claimed to survive.

    Exit code 0: every claim is confirmed. 1: one is not. 2: there is nothing that could be checked.
    """
    require_target(json)
    from robustctl import user_code
    from robustctl.report import verification as report
    from robustctl.workflows.images import reading_of
    from robustctl.workflows.verify import verify, write_all

    code = user_code.parse("--model-code", model_code) if model_code else None
    reading = reading_of(columns, classes) if columns or classes else None
    with user_code.granted(code):
        found = verify(what, model=model, data=data, reading=reading, sample=sample, seed=seed, device=device)
    save(lambda path: write_all(found, path), json)
    say_table("\n\n".join(map(report.text, found)), json)
    if any(one.verdict != "confirmed" for one in found):
        raise typer.Exit(1)
