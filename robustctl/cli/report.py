"""Results as one page for a browser, or as one row per point for a spreadsheet."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.errors import RequestError

ENDINGS = {".html": "page", ".md": "tables", ".tex": "tables", ".csv": "points"}


def command(
    result: Annotated[
        list[str] | None,
        typer.Argument(
            help="Result files, runs or studies (.yaml); without, all under the runs' root.",
            autocompletion=options.result_names,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write: .html (a page), .md or .tex (tables), .csv (every point's verdict)."
        ),
    ] = None,
) -> None:
    """Show results: as tables on the terminal, or in a file (-o) whose ending says what it is.

    .html is a self-contained page, .md and .tex are tables, .csv is one row per point. Intermediate-q results are shown
    too, on the page as curves, and so are results of suites and curves, as plain tables; .tex and .csv leave them out.
    """
    ending = output.suffix.lower() if output is not None else ""
    if output is not None and ending not in ENDINGS:
        raise RequestError(f"-o {output}: the ending says what is written; choose {', '.join(ENDINGS)}")
    if output is not None and not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output}: there is no directory {output.absolute().parent}")
    from robustctl.files import write_text
    from robustctl.report import method_formats, methods, page, points, q_table, table
    from robustctl.workflows.named_results import read_both, read_plain
    from robustctl.workflows.study import opened

    plain, others = read_plain(opened(result) if result else None)
    found, curves = read_both(others or []) if others or others is None else ([], [])
    if not found and not curves and not plain:
        raise RequestError("there is no result yet; make one with robustctl eval")
    if not found and ending in (".csv", ".tex"):
        raise RequestError(f"{ending} needs verdicts; make some with robustctl eval --union")
    if output is not None:
        if ending == ".html":
            text = page.render(found, curves, plain)
        elif ending == ".md":
            fenced = [
                f"```text\n{one}\n```" for one in [*map(q_table.table, dict(curves).values()), *dict(plain).values()]
            ]
            text = "\n\n".join([*([table.markdown(found)] if found else []), *fenced])
        elif ending == ".tex":
            rows = [methods.Scored(label, label, None, result) for label, result in found]
            text = method_formats.latex(methods.build(rows))
        else:
            text = points.render(found)
        write_text(output, text.rstrip("\n") + "\n")
        terminal.tell(f"{ENDINGS[ending]}: {output}")
    else:
        tables = [table.before_after([one]) for one in found] + [q_table.table(one) for _, one in curves]
        tables += [text for _, text in plain]
        terminal.show("\n\n".join(tables))
