"""What the commands ``train`` and ``finetune`` share: their options, and what they print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustctl.cli import completion

if TYPE_CHECKING:
    from robustctl.workflows.training_request import TrainingRequest


def carry_out(request: "TrainingRequest") -> None:
    """Train, print the run directory, and push the run if the request says so."""
    from robustctl.workflows.train import train

    run = train(request)
    if run is None:
        return
    typer.echo(run.path)
    if request.push is not None:
        from robustctl.publish.push import Target
        from robustctl.workflows.publish_run import publish_run

        typer.echo(str(publish_run(str(run.path), Target(request.push), licence=request.licence)))


def _installed(asked: bool) -> bool:
    """Refuse ``--tensorboard`` where its package is missing."""
    from importlib.util import find_spec

    from robustctl.errors import RequestError

    if asked and find_spec("tensorboard") is None:
        raise RequestError("--tensorboard needs the package of that name: pip install tensorboard")
    return asked


RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", help="Name (e-at, cifar10/e-at) or YAML file.", autocompletion=completion.recipe_names
    ),
]
DataOption = Annotated[str | None, typer.Option("--data", help="digits, a hub data set, a folder or an .npz file.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of the data to train on; train without.")]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", help="Columns of the data, if they have no usual names: image=img,label=fine_label."),
]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes", help="YAML file that maps classes of the data to the model's, if names do not: kitty: cat."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the recipe: optim.lr=0.01. May be repeated.")
]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of every random choice; 0 without.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Run directory; runs/<time>-<model>-<recipe> without.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Stop after so many optimiser steps of the whole run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with --out, or with the newest unfinished run.")]
TensorboardOption = Annotated[
    bool,
    typer.Option(
        "--tensorboard", help="Also write the metrics for TensorBoard, which must be installed.", callback=_installed
    ),
]
PushOption = Annotated[
    str | None, typer.Option("--push", help="USER/NAME: push the finished run; checked before training starts.")
]
LicenceOption = Annotated[
    str | None, typer.Option("--licence", help="Of what --push publishes, where it cannot be inherited, e.g. mit.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Go on although a radius of the recipe makes no sense.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")]
