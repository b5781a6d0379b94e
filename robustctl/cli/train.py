"""Train an architecture from scratch by a recipe."""

from typing import Annotated

import typer

from robustctl import discovery
from robustctl.cli import _training as shared
from robustctl.cli import _training_options as options


def _architectures(incomplete: str) -> list[str]:
    """For the shell's tab completion."""
    return [name for name in discovery.names("robustctl.architectures") if name.startswith(incomplete)]


def command(
    arch: Annotated[
        str | None, typer.Argument(help="kw-small, wide-resnet, ...", autocompletion=_architectures)
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
        licence=licence,
        tensorboard=tensorboard,
    )
    shared.carry_out(request)
