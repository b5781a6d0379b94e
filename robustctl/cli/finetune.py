"""Fine-tune a model by a recipe."""

from typing import Annotated

import typer

from robustctl.cli import _training as shared


def command(
    model: Annotated[str | None, typer.Argument(help="Entry, pulled repo, model directory or run.")] = None,
    recipe: shared.RecipeOption = None,
    data: shared.DataOption = None,
    overrides: shared.SetOption = None,
    seed: shared.SeedOption = None,
    device: shared.DeviceOption = "auto",
    out: shared.OutOption = None,
    max_steps: shared.StepsOption = None,
    resume: shared.ResumeOption = False,
    dry_run: shared.DryOption = False,
    push: shared.PushOption = None,
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
        new_head=new_head,
    )
    shared.carry_out(request)
