"""Fine-tune a model by a recipe."""

from typing import Annotated, Any

import typer

from robustctl.cli import options, training


@training.with_options
def command(
    model: Annotated[
        str | None,
        typer.Argument(help="Entry, pulled repo, model directory or run.", autocompletion=options.model_names),
    ] = None,
    *,
    weights: options.Weights = None,
    classes: options.Classes = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw a new last layer for the data's number of classes.")
    ] = False,
    **request: Any,
) -> None:
    """Fine-tune a model, e.g. from one norm to the union. Prints the run directory."""
    training.carry_out("finetune", model, {**request, "weights": weights, "classes": classes, "new_head": new_head})
