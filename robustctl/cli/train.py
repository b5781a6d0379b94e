"""Train an architecture from scratch by a recipe."""

from typing import Annotated, Any

import typer

from robustctl.cli import options, training


@training.with_options
def command(
    arch: Annotated[
        str | None, typer.Argument(help="kw-small, wide-resnet, ...", autocompletion=options.architectures)
    ] = None,
    **request: Any,
) -> None:
    """Train from random weights. The architecture's arguments are the recipe's. Prints the run directory."""
    training.carry_out("train", arch, request)
