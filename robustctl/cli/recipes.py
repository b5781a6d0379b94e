"""Recipes: list them, show, check and copy one."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import Json, Sort, listing, require_target
from robustctl.errors import RequestError

app = typer.Typer(no_args_is_help=True, help="Recipes: list, show, validate, copy.")


Name = Annotated[str, typer.Argument(help="dataset/name, or a YAML file.", autocompletion=options.recipe_names)]


@app.command("list")
def list_recipes(
    dataset: Annotated[str | None, typer.Option(help="Only recipes for this data set.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Only recipes with this training method.", autocompletion=options.methods)
    ] = None,
    sort: Sort = None,
    json: Json = None,
) -> None:
    """List the shipped recipes: data set and name, method, paper, expected cost."""
    from robustctl import discovery
    from robustctl.recipe import read as recipe

    require_target(json)
    known = {name.partition("/")[0] for name in recipe.names()}
    if dataset is not None and dataset not in known:
        raise discovery.unknown("data set", dataset, known)
    methods = discovery.names(recipe.METHODS)
    if method is not None and method not in methods:
        raise discovery.unknown("method", method, methods)
    rows: list[dict[str, object]] = []
    for name in recipe.names():
        if dataset is None or name.startswith(f"{dataset}/"):
            settings = recipe.load(name).settings
            about = {"paper": settings.about.paper, "cost": settings.about.cost}
            row = {"name": name, "method": settings.method.name, "epochs": settings.train.epochs, **about}
            rows += [row] if method in (None, settings.method.name) else []
    shown = {"paper": [f"{row['paper']} | {row['cost']}" for row in rows]}
    headings = {"name": "recipe", "method": "method", "epochs": "epochs", "paper": "paper | cost"}
    listing(rows, headings, json, sort, shown)


@app.command()
def show(name: Name) -> None:
    """Print a recipe, header included; one that has a base is shown whole, the base's values among its own."""
    from robustctl.recipe import read as recipe

    terminal.show(recipe.written(recipe.find(name)).rstrip())


@app.command()
def validate(
    name: Name,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="As in finetune.")] = None,
) -> None:
    """Check a recipe; every fault is listed with its line. Says whether E-AT's assumption holds for its radii."""
    from math import prod

    from robustctl.conventions import KNOWN
    from robustctl.progress import say
    from robustctl.recipe import read as recipe
    from robustctl.threats import require_plausible, unusual

    checked = recipe.load(name, overrides or ())
    known = KNOWN.get(checked.settings.dataset)
    shape = known.input_shape if known else None
    require_plausible(checked.settings.train_threats, shape, key="train.threats", way_on="finetune --force")
    require_plausible(checked.settings.evaluate_threats, shape, key="evaluate.threats", way_on="finetune --force")
    if shape:
        for hint in (
            *unusual(checked.settings.train_threats, shape, key="train.threats"),
            *unusual(checked.settings.evaluate_threats, shape, key="evaluate.threats"),
        ):
            say(hint)
    terminal.show(f"{checked.name} is valid: {checked.settings.method.name} on {checked.settings.dataset}")
    line = recipe.hull_line(checked.settings, prod(shape)) if shape else None
    if line:
        terminal.show(line)


@app.command()
def copy(name: Name, destination: Annotated[Path, typer.Argument(help="The new file.")]) -> None:
    """Copy a recipe to a file of your own, to edit it; one that has a base is written whole."""
    from robustctl.files import write_text
    from robustctl.recipe import read as recipe

    if destination.exists():
        raise RequestError(f"{destination} is there already; choose another name")
    write_text(destination, recipe.written(recipe.find(name)))
    terminal.show(f"{destination}: edit it, then robustctl recipes validate {destination}")
