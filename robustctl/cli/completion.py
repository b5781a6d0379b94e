"""The shell's tab completion of parameters by their names; ``options`` has those that a command names itself."""

from collections.abc import Callable

import typer

from robustctl.cli import options

Complete = Callable[[str], list[str]]


def words(*known: str) -> Complete:
    """Completes one of these words."""
    return lambda incomplete: [one for one in known if one.startswith(incomplete)]


def several(complete: Complete) -> Complete:
    """Completes the last of several values between commas."""

    def last(incomplete: str) -> list[str]:
        before, comma, typed = incomplete.rpartition(",")
        return [f"{before}{comma}{one}" for one in complete(typed)]

    return last


def run_names(incomplete: str) -> list[str]:
    """The runs that begin so."""
    from robustctl import runs

    return [run.name for run in runs.list_runs() if run.name.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    """The known data sets that begin so."""
    from robustctl.conventions import CONVENTIONS

    return words(*CONVENTIONS)(incomplete)


def threats(incomplete: str) -> list[str]:
    """The kinds of threats beyond the three norms that begin so."""
    from robustctl.perturbations.base import names

    return words(*names())(incomplete)


def formats(incomplete: str) -> list[str]:
    """The formats of tables that begin so."""
    from robustctl.report.method_formats import FORMATS

    return words(*FORMATS)(incomplete)


def statuses(incomplete: str) -> list[str]:
    """The statuses of runs that begin so."""
    from robustctl.workflows.run_list import STATUSES

    return words(*STATUSES)(incomplete)


NORMS = words("linf", "l2", "l1")
ROWS = {
    "models list": ("name", "here", "dataset", "threat", "parameters", "clean", "linf", "l2", "l1", "architecture"),
    "recipes list": ("name", "method", "epochs", "paper", "cost"),
    "runs": ("name", "status", "step", "steps", "seed", "selection", "result", "model", "recipe"),
}
"""Columns that people sort by; every column of ``--json`` can be."""


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """The columns of the listing that is typed which begin so."""
    listed = next((names for command, names in ROWS.items() if context.command_path.endswith(f" {command}")), ())
    return words(*listed)(incomplete)


BY_NAME: dict[str, Callable[..., list[str]]] = {
    "arch": options.architectures,
    "data": datasets,
    "dataset": datasets,
    "devices": several(options.devices),
    "estimator": words("path", "ais", "mc", "both"),
    "executor": words("processes", "slurm"),
    "format": formats,
    "grid": words("graded", "thesis"),
    "like": options.result_names,
    "model": options.model_names,
    "norm": NORMS,
    "norms": several(NORMS),
    "precision": words("auto", "float32", "bf16"),
    "result": options.result_names,
    "results": options.result_names,
    "rows": words("method", "result"),
    "run": run_names,
    "sort": columns,
    "status": statuses,
    "threat": threats,
    "what": options.result_names,
}
BY_COMMAND: dict[str, dict[str, Complete]] = {
    "table": {"columns": several(words("clean", "linf", "l2", "l1", "average", "union"))},
}


def completion(command: str, parameter: str) -> Callable[..., list[str]] | None:
    """The completion of a parameter of a command (``models list``), if there is one."""
    return BY_COMMAND.get(command, {}).get(parameter) or BY_NAME.get(parameter)
