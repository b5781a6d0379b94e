"""The common part of the commands ``train`` and ``finetune``: their options, and what they print."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.errors import RequestError


def carry_out(command: Literal["train", "finetune"], model: str | None, request: dict[str, Any]) -> None:
    """Train, print the run directory, and push the run if the options say so."""
    from robustctl.workflows.train import train
    from robustctl.workflows.training_request import TrainingRequest

    overrides = tuple(request.pop("overrides") or ())
    several = several_of(request)
    if several is not None:
        _study(command, model, overrides, *several, request)
        return
    asked = TrainingRequest(command, model, overrides=overrides, **request)
    run = train(asked)
    if run is None:
        return
    terminal.show(run.path)
    if asked.push is not None:
        from robustctl.publish.push import Target
        from robustctl.workflows.publish_run import publish_run

        terminal.show(str(publish_run(str(run.path), Target(asked.push), licence=asked.licence)))


IN_A_STUDY = ("recipe", "seed", "data", "split", "columns", "classes", "device", "dry_run", "resume")
"""Options that trainings of several recipes or seeds read."""


def several_of(request: dict[str, Any]) -> tuple[list[str], list[int]] | None:
    """The recipes and seeds of a request that names several; else None, and the request has its seed as a number.

    Raises:
        RequestError: a seed is none.
    """
    written = request["recipe"]
    recipes = [written] if written is None or Path(written).is_file() else [one.strip() for one in written.split(",")]
    seeds = [] if request["seed"] is None else [_seed(one.strip()) for one in request["seed"].split(",")]
    if len(recipes) < 2 and len(seeds) < 2:
        request["seed"] = seeds[0] if seeds else None
        return None
    return recipes, seeds or [0]


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise RequestError(f"--seed {text!r}: give a whole number from 0 to 2**63 - 1, or several: 0,1,2")
    return int(text)


def _study(
    command: Literal["train", "finetune"],
    model: str | None,
    overrides: tuple[str, ...],
    recipes: list[str],
    seeds: list[int],
    request: dict[str, Any],
) -> None:
    """Train and evaluate several recipes and seeds, as ``robustctl study`` does."""
    import shlex
    import sys

    from robustctl.cli import several
    from robustctl.workflows.study import plan_of, study_of

    unread = [name for name, value in request.items() if value and name not in IN_A_STUDY and value != "auto"]
    if unread:
        raise RequestError(
            f"--{unread[0].replace('_', '-')} is for one training; several recipes or seeds are a study, which "
            "does not read it"
        )
    if model is None or None in recipes:
        raise RequestError(f"say what to {command} and how: robustctl {command} MODEL --recipe e-at,ramp --seed 0,1,2")
    said = {name: request.get(name) for name in ("data", "split", "columns", "classes")}
    plan = plan_of(study_of(command, model, recipes, seeds, overrides, **said))
    again = shlex.join(["robustctl", *sys.argv[1:]])
    several.carry_out(
        plan,
        f"{command}-{plan.trainings[0].name}",
        again,
        jobs=None,
        devices=request["device"],
        executor="processes",
        slurm=None,
        dry_run=request["dry_run"],
    )


def _installed(asked: bool) -> bool:
    """Refuse ``--tensorboard`` if its package is missing."""
    from importlib.util import find_spec

    from robustctl.errors import RequestError

    if asked and find_spec("tensorboard") is None:
        raise RequestError("--tensorboard needs the package of that name: pip install tensorboard")
    return asked


def _options(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Name (e-at, cifar10/e-at) or YAML file; several make a study: e-at,ramp.",
            autocompletion=options.recipe_names,
        ),
    ] = None,
    data: options.Data = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of the data to train on; train without.")] = None,
    columns: options.Columns = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a key of the recipe: optim.lr=0.01. May be repeated.",
            autocompletion=options.set_keys,
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", help="Seed of every random choice, 0 without; several make a study: 0,1,2.")
    ] = None,
    device: options.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; without, one named by time, model and recipe.")
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
