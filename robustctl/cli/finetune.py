"""Fine-tune a model by a recipe."""

from typing import Annotated

import typer

from robustctl.cli import completion, training


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="Entry, pulled repo, model directory or run.", autocompletion=completion.model_names),
    ] = None,
    recipe: training.RecipeOption = None,
    data: training.DataOption = None,
    split: training.SplitOption = None,
    columns: training.ColumnsOption = None,
    classes: training.ClassesOption = None,
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
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw a new last layer for the data's number of classes.")
    ] = False,
) -> None:
    """Fine-tune a model, e.g. from one norm to the union. Prints the run directory."""
    from robustctl.workflows.training_request import TrainingRequest

    request = TrainingRequest(
        command="finetune",
        model=model,
        recipe=recipe,
        data=data,
        split=split,
        columns=columns,
        classes=classes,
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
        new_head=new_head,
    )
    training.carry_out(request)
