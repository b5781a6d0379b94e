"""Options that several commands have, and what the shell completes in them."""

from pathlib import Path
from typing import Annotated

import typer


def model_names(incomplete: str) -> list[str]:
    """The models that can be named and begin so, runs among them; for the shell's tab completion."""
    from robustctl.models.find import entry_files, pulled

    return [name for name in [*entry_files(), *pulled(), *_run_names()] if name.startswith(incomplete)]


def _run_names() -> list[str]:
    from robustctl import runs

    return [run.name for run in runs.list_runs()]


def result_names(incomplete: str) -> list[str]:
    """The runs, result files and studies that begin so; for the shell's tab completion."""
    folder, _, last = incomplete.rpartition("/")
    typed = incomplete.removesuffix(last)  # what was typed is completed as it was typed
    found = sorted(one for one in Path(folder or ("/" if typed else ".")).glob("*") if one.name.startswith(last))
    kept = [f"{typed}{one.name}{'/' * one.is_dir()}" for one in found]
    files = [one for one in kept if one.endswith(("/", ".json", ".yaml", ".yml"))]
    return [*files, *(name for name in _run_names() if name.startswith(incomplete))]


def methods(incomplete: str) -> list[str]:
    """The training methods that begin so; for the shell's tab completion."""
    from robustctl import discovery

    return [name for name in discovery.names("robustctl.training.methods") if name.startswith(incomplete)]


def protocols(incomplete: str) -> list[str]:
    """The protocols and the user's own attacks that begin so; for the shell's tab completion."""
    from robustctl.discovery import own_files
    from robustctl.evaluation.protocols import PROTOCOLS, ROUNDS

    known = [*ROUNDS, *PROTOCOLS, "autoattack", *own_files("robustctl.attacks")]
    return [name for name in known if name.startswith(incomplete)]


def devices(incomplete: str) -> list[str]:
    """The devices of this machine that begin so; for the shell's tab completion."""
    from robustctl.devices import inventory

    return [name for name in ["auto", "cpu", *inventory()] if name.startswith(incomplete)]


def set_keys(incomplete: str) -> list[str]:
    """The keys of recipes that begin so, with ``=``; for the shell's tab completion."""
    from robustctl.recipe.keys import recipe_keys

    return [f"{key}=" for key in recipe_keys() if key.startswith(incomplete)]


def architectures(incomplete: str) -> list[str]:
    """The architectures that begin so; for the shell's tab completion."""
    from robustctl import discovery

    return [name for name in discovery.names("robustctl.architectures") if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """The recipes that begin so, with their data set or without; for the shell's tab completion."""
    from robustctl.recipe import read as recipe

    before, comma, last = incomplete.rpartition(",")  # several make a study: e-at,ramp
    full = recipe.names()
    short = sorted({name.rpartition("/")[2] for name in full})
    return [f"{before}{comma}{name}" for name in [*short, *full] if name.startswith(last)]


def suite_names(incomplete: str) -> list[str]:
    """The shipped suites that begin so; for the shell's tab completion."""
    from robustctl import suites

    return [name for name in suites.names() if name.startswith(incomplete)]


Data = Annotated[
    str | None, typer.Option("--data", help="digits, a hub data set USER/NAME[@REVISION], a folder or an .npz file.")
]
Split = Annotated[str, typer.Option(help="Split of the data.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:N or another device of torch.", autocompletion=devices)
]
Model = Annotated[str, typer.Option(help="Entry, pulled repo, model directory or run.", autocompletion=model_names)]
ModelOrNewestRun = Annotated[
    str | None,
    typer.Argument(
        help="Entry, pulled repo, model directory or run; the newest run without.", autocompletion=model_names
    ),
]
Norms = Annotated[str | None, typer.Option(help="Norms to attack in, e.g. linf,l2,l1.")]
Eps = Annotated[
    list[str] | None,
    typer.Option(help="Radii, e.g. linf:8/255,l1:12; the others as the recipe or data set has them."),
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Columns of the data, if they have no usual names: image=img,label=fine_label."),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes", help="YAML file that maps classes of the data to the model's, if names do not: kitty: cat."
    ),
]
ModelCode = Annotated[
    str | None,
    typer.Option(
        "--model-code",
        help="Your own code that builds the model, FILE.py:NAME or package.module:NAME, with arguments as in "
        "'net.py:build(width=8)'. It is run.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="File of weights (.pt, .safetensors, ...) for what --model-code builds."),
]
