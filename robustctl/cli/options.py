"""Options that several commands have, and what the shell completes in them."""

from pathlib import Path
from typing import Annotated

import typer


def model_names(incomplete: str) -> list[str]:
    """The models that can be named and begin so; for the shell's tab completion."""
    from robustctl.models.find import entry_files, pulled

    return [name for name in [*entry_files(), *pulled()] if name.startswith(incomplete)]


def architectures(incomplete: str) -> list[str]:
    """The architectures that begin so; for the shell's tab completion."""
    from robustctl import discovery

    return [name for name in discovery.names("robustctl.architectures") if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """The recipes that begin so; for the shell's tab completion."""
    from robustctl.recipe import read as recipe

    return [name for name in recipe.names() if name.startswith(incomplete)]


def suite_names(incomplete: str) -> list[str]:
    """The shipped suites that begin so; for the shell's tab completion."""
    from robustctl import suites

    return [name for name in suites.names() if name.startswith(incomplete)]


Data = Annotated[str | None, typer.Option("--data", help="digits, a hub data set, a folder or an .npz file.")]
Split = Annotated[str, typer.Option(help="Split of the data.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or another device of torch.")]
Model = Annotated[str, typer.Option(help="Entry, pulled repo, model directory or run.", autocompletion=model_names)]
Norms = Annotated[str | None, typer.Option(help="Norms to attack in, e.g. linf,l2,l1.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Columns of the data, if they have no usual names: image=img,label=fine_label."),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes", help="YAML file that maps classes of the data to the model's, if names do not: kitty: cat."
    ),
]
ModelCode = Annotated[
    str | None,
    typer.Option(
        "--model-code",
        help="Your own code that builds the model, FILE.py:NAME or package.module:NAME, with arguments as in "
        "'net.py:build(width=8)'. It is run.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="File of weights (.pt, .safetensors, ...) for what --model-code builds."),
]
