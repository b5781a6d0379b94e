"""Run a study: models x recipes x seeds x data x threats x protocols."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError, RunError

EXAMPLES = """
robustctl study study.yaml --dry-run
robustctl study study.yaml --jobs 2
robustctl table study.yaml --format latex
"""


def command(
    study: Annotated[Path, typer.Argument(help="YAML file; docs/study.md has its keys.")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Steps at one time; one per device without.")
    ] = None,
    devices: Annotated[
        str, typer.Option("--devices", help="Devices to spread the steps over, e.g. cuda:0,cuda:1.")
    ] = "auto",
    executor: Annotated[
        str, typer.Option("--executor", help="processes (of this machine) or slurm (jobs, through submitit).")
    ] = "processes",
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", help="What submitit is told, e.g. slurm_partition=gpu. May be repeated."),
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
    carry_out(plan, study.stem, again, jobs=jobs, devices=devices, executor=executor, slurm=slurm, dry_run=dry_run)


def carry_out(
    plan: "object",
    name: str,
    again: str,
    *,
    jobs: int | None,
    devices: str,
    executor: str,
    slurm: list[str] | None,
    dry_run: bool,
) -> None:
    """Do what is missing of a plan, print the table of what is there, and raise what failed afterwards."""
    from robustctl.oracle import pick_device
    from robustctl.report import method_formats, methods
    from robustctl.study.cells import Plan
    from robustctl.workflows import study as studies

    assert isinstance(plan, Plan)
    if executor not in ("processes", "slurm"):
        raise RequestError(f"--executor {executor}: choose processes or slurm")
    wanted = [part.strip() for part in devices.split(",")]
    if executor == "processes":  # a cluster's machines have their own devices
        wanted = [str(pick_device(one)) for one in wanted]
    if dry_run:
        from robustctl.workflows.study_estimate import lines

        for line in lines(plan, wanted, jobs or len(wanted)):
            terminal.show(line)
        return
    at_once = jobs or (len(wanted) if executor == "processes" else max(len(plan.evaluations), 1))
    failure: RunError | None = None
    try:
        studies.run(plan, name, studies.pool(executor, at_once, slurm or ()), wanted, at_once, again)  # type: ignore[arg-type]
    except RunError as error:
        failure = error
    there, _ = studies.results(plan)
    if there:
        terminal.show(method_formats.text(methods.build(there, methods.COLUMNS)))
    elif failure is None:
        for training in plan.trainings:
            terminal.show(training.run.path)
    if failure is not None:
        raise failure
