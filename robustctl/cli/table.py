"""Results of methods and seeds as one table."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.errors import RequestError

ENDINGS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


def command(
    result: Annotated[
        list[str],
        typer.Argument(
            help="Result files, runs (their newest result) or studies (.yaml).", autocompletion=options.result_names
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", help="text, markdown, latex, csv or json; without, as the ending of -o says."),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="method (its seeds in one row) or result (each a row of its own).")
    ] = "method",
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="Figures, of clean, linf, l2, l1, average, union; of a suite its threats, corruptions, and the union "
            "and mean of a group (ramp-union, ramp-mean).",
            show_default="all",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A row, e.g. e-at: the others get p-values against it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the table here: .txt, .md, .tex, .csv or .json.")
    ] = None,
) -> None:
    """One row per method: mean and standard deviation over seeds, the points' interval, the best marked.

    Results that were measured differently (images, radii, protocol) get a table of their own.
    """
    from robustctl.discovery import unknown
    from robustctl.files import write_text
    from robustctl.report.method_formats import FORMATS
    from robustctl.report.methods import build
    from robustctl.workflows import study
    from robustctl.workflows.method_results import scored

    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    ending = output.suffix.lower() if output is not None else ".txt"
    if ending not in ENDINGS or (format not in (None, ENDINGS[ending]) and output is not None):
        listed = ", ".join(f"{one} ({name})" for one, name in ENDINGS.items())
        raise RequestError(f"-o {output}: the ending says what is written; choose {listed}")
    if rows not in ("method", "result"):
        raise RequestError(f"--rows {rows}: choose method or result")
    chosen = None if columns is None else [part.strip() for part in columns.split(",")]
    if output is not None and not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output}: there is no directory {output.absolute().parent}")
    found = []
    for text in result:
        found += [study.scored(one) for one in study.evaluated(Path(text))] if study.is_study(text) else [scored(text)]
    if not found:
        raise RequestError(f"there is no result yet; make some with robustctl study {result[0]}")
    text = FORMATS[format or ENDINGS[ending]](build(found, chosen, rows, against))
    if output is None:
        terminal.show(text)
    else:
        write_text(output, text + "\n")
        terminal.tell(f"table: {output}")
