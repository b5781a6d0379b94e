"""Train an architecture from scratch by a recipe."""

from typing import Annotated

import typer

from robustctl.cli import completion, training


def command(
    arch: Annotated[
        str | None, typer.Argument(help="kw-small, wide-resnet, ...", autocompletion=completion.architectures)
    ] = None,
    recipe: training.RecipeOption = None,
    data: training.DataOption = None,
    split: training.SplitOption = None,
    columns: training.ColumnsOption = None,
    overrides: training.SetOption = None,
    seed: training.SeedOption = None,
    device: training.DeviceOption = "auto",
    out: training.OutOption = None,
    max_steps: training.StepsOption = None,
    resume: training.ResumeOption = False,
    dry_run: training.DryOption = False,
    force: training.ForceOption = False,
    push: training.PushOption = None,
    licence: training.LicenceOption = None,
    tensorboard: training.TensorboardOption = False,
) -> None:
    """Train from random weights. The architecture's arguments are the recipe's. Prints the run directory."""
    from robustctl.workflows.training_request import TrainingRequest

    request = TrainingRequest(
        command="train",
        model=arch,
        recipe=recipe,
        data=data,
        split=split,
        columns=columns,
        overrides=tuple(overrides or ()),
        seed=seed,
        device=device,
        out=out,
        max_steps=max_steps,
        resume=resume,
        dry_run=dry_run,
        force=force,
        push=push,
        licence=licence,
        tensorboard=tensorboard,
    )
    training.carry_out(request)
