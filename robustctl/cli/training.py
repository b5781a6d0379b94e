"""What the commands ``train`` and ``finetune`` share: their options, and what they print."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustctl import terminal
from robustctl.cli import options


def carry_out(command: Literal["train", "finetune"], model: str | None, request: dict[str, Any]) -> None:
    """Train, print the run directory, and push the run if the options say so."""
    from robustctl.workflows.train import train
    from robustctl.workflows.training_request import TrainingRequest

    overrides = tuple(request.pop("overrides") or ())
    asked = TrainingRequest(command, model, overrides=overrides, **request)
    run = train(asked)
    if run is None:
        return
    terminal.show(run.path)
    if asked.push is not None:
        from robustctl.publish.push import Target
        from robustctl.workflows.publish_run import publish_run

        terminal.show(str(publish_run(str(run.path), Target(asked.push), licence=asked.licence)))


def _installed(asked: bool) -> bool:
    """Refuse ``--tensorboard`` where its package is missing."""
    from importlib.util import find_spec

    from robustctl.errors import RequestError

    if asked and find_spec("tensorboard") is None:
        raise RequestError("--tensorboard needs the package of that name: pip install tensorboard")
    return asked


def _options(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", help="Name (e-at, cifar10/e-at) or YAML file.", autocompletion=options.recipe_names
        ),
    ] = None,
    data: options.Data = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of the data to train on; train without.")] = None,
    columns: options.Columns = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe: optim.lr=0.01. May be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of every random choice; 0 without.")
    ] = None,
    device: options.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; runs/<time>-<model>-<recipe> without.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many optimiser steps of the whole run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out, or with the newest unfinished run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although a radius of the recipe makes no sense.")
    ] = False,
    push: Annotated[
        str | None, typer.Option("--push", help="USER/NAME: push the finished run; checked before training starts.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of what --push publishes, where it cannot be inherited, e.g. mit.")
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write the metrics for TensorBoard, which must be installed.",
            callback=_installed,
        ),
    ] = False,
    model_code: options.ModelCode = None,
) -> None:
    """The options that both commands have."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``**request`` the common options, between its positional and its own ones."""
    own, common = inspect.signature(command), inspect.signature(_options)
    parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    split = next((i for i, one in enumerate(parameters) if one.kind is inspect.Parameter.KEYWORD_ONLY), len(parameters))
    shared = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in common.parameters.values()]
    command.__signature__ = own.replace(parameters=[*parameters[:split], *shared, *parameters[split:]])  # type: ignore[attr-defined]
    command.__annotations__ = {**_options.__annotations__, **command.__annotations__}
    return command
