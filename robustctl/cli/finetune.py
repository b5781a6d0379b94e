"""Fine-tune a model by a recipe."""

from typing import Annotated

import typer

from robustctl.cli import _training as shared
from robustctl.cli import _training_options as options
from robustctl.cli.models import names


def command(
    model: Annotated[
        str | None, typer.Argument(help="Entry, pulled repo, model directory or run.", autocompletion=names)
    ] = None,
    recipe: options.RecipeOption = None,
    data: options.DataOption = None,
    overrides: options.SetOption = None,
    seed: options.SeedOption = None,
    device: options.DeviceOption = "auto",
    out: options.OutOption = None,
    max_steps: options.StepsOption = None,
    resume: options.ResumeOption = False,
    dry_run: options.DryOption = False,
    push: options.PushOption = None,
    licence: options.LicenceOption = None,
    tensorboard: options.TensorboardOption = False,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw a new last layer for the data's number of classes.")
    ] = False,
) -> None:
    """Fine-tune a model, e.g. from one norm to the union. Prints the run directory."""
    request = shared.Request(
        command="finetune",
        model=model,
        recipe=recipe,
        data=data,
        overrides=tuple(overrides or ()),
        seed=seed,
        device=device,
        out=out,
        max_steps=max_steps,
        resume=resume,
        dry_run=dry_run,
        push=push,
        licence=licence,
        tensorboard=tensorboard,
        new_head=new_head,
    )
    shared.carry_out(request)
