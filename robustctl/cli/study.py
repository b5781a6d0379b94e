"""Run a study: models x recipes x seeds x data x threats x protocols."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from robustctl.cli import several


def command(
    study: Annotated[Path, typer.Argument(help="YAML file; docs/study.md has its keys.")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Steps at one time; one per device without.")
    ] = None,
    devices: Annotated[
        str, typer.Option("--devices", help="Devices to spread the steps over, e.g. cuda:0,cuda:1.")
    ] = "auto",
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes of each step, which torchrun starts: a card each.")
    ] = 1,
    executor: Annotated[
        str, typer.Option("--executor", help="processes (of this machine) or slurm (jobs, through submitit).")
    ] = "processes",
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", help="What submitit is told, e.g. gpus_per_node=1. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be done and what it takes.")
    ] = False,
) -> None:
    """Train and evaluate every combination that is missing, and print the table.

    The same command again goes on where it was stopped. One failure does not stop the others.
    """
    from robustctl.workflows.study import read_study

    plan = read_study(study)
    again = shlex.join(["robustctl", "study", str(study)])
    several.carry_out(
        plan,
        study.stem,
        again,
        jobs=jobs,
        devices=devices,
        executor=executor,
        slurm=slurm,
        dry_run=dry_run,
        processes=processes,
    )
