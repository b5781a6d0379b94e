"""Draw results."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError

app = typer.Typer(no_args_is_help=True, help="Draw results: curve, q-curve.")


@app.command("q-curve")
def q_curve(
    results: Annotated[list[Path], typer.Argument(help="Result files of eval --intermediate-q, one per model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write, .png or .svg.")],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of a curve, in the order of the files; repeat it.")
    ] = None,
) -> None:
    """Intermediate-q loss against q, for one or several models."""
    if label and len(label) != len(results):
        raise RequestError(f"--label is given {len(label)} times for {len(results)} results")
    if not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output}: there is no directory {output.absolute().parent}")
    from robustctl.intermediate.results import read
    from robustctl.report.q_curve import plot_curves

    read_results = [read(path) for path in results]
    labels = label or [result.model for result in read_results]
    plot_curves(list(zip(labels, read_results, strict=True)), output)
    terminal.tell(f"plot: {output}")


@app.command("curve")
def curve(
    results: Annotated[
        list[str],
        typer.Argument(help="Result files of eval --curve; results of fixed radii are marked in the picture."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write, .png or .svg.")],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of a curve, in the order of the curves; repeat it.")
    ] = None,
) -> None:
    """Accuracy against radius for one or several models, and a table of medians, areas and competitiveness ratios."""
    if not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output}: there is no directory {output.absolute().parent}")
    from robustctl.report.curve_plot import plot
    from robustctl.report.curve_table import comparison
    from robustctl.workflows.named_results import read_curves

    curves, fixed, notes = read_curves(results)
    if label and len(label) != len(curves):
        raise RequestError(f"--label is given {len(label)} times for {len(curves)} curves")
    if label:
        curves = [(name, one) for name, (_, one) in zip(label, curves, strict=True)]
    plot(curves, fixed, output)
    terminal.show(comparison(curves))
    for note in notes:
        terminal.tell(note)
    terminal.tell(f"plot: {output}")
