"""Train an architecture from scratch by a recipe."""

from typing import Annotated

import typer

from robustctl import discovery
from robustctl.cli import _training as shared


def _architectures(incomplete: str) -> list[str]:
    """For the shell's tab completion."""
    return [name for name in discovery.names("robustctl.architectures") if name.startswith(incomplete)]


def command(
    arch: Annotated[
        str | None, typer.Argument(help="kw-small, wide-resnet, ...", autocompletion=_architectures)
    ] = None,
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
) -> None:
    """Train from random weights. The architecture's arguments are the recipe's. Prints the run directory."""
    request = shared.Request(
        command="train",
        model=arch,
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
    )
    shared.carry_out(request)
