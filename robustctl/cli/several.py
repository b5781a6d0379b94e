"""``study`` shares this with ``train`` and ``finetune`` of several recipes or seeds: do a plan, print its table."""

from robustctl import terminal
from robustctl.errors import RequestError, RunError


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
    processes: int = 1,
) -> None:
    """Do what is missing of a plan, print the table of what is there, and raise what failed afterwards."""
    from robustctl.devices import pick_device
    from robustctl.report import method_formats, methods
    from robustctl.study.cells import StudyPlan
    from robustctl.study.pool import places
    from robustctl.workflows import study as studies

    assert isinstance(plan, StudyPlan)
    if executor not in ("processes", "slurm"):
        raise RequestError(f"--executor {executor}: choose processes or slurm")
    wanted = [part.strip() for part in devices.split(",")]
    if executor == "processes":  # a cluster's machines have their own devices
        wanted = [str(pick_device(one)) for one in wanted]
    where = places(wanted, processes)
    if dry_run:
        from robustctl.workflows.study_estimate import lines

        for line in lines(plan, wanted, jobs or len(where)):
            terminal.show(line)
        return
    at_once = jobs or (len(where) if executor == "processes" else max(len(plan.evaluations), 1))
    failure: RunError | None = None
    try:
        pool = studies.pool(executor, at_once, slurm or (), processes)  # type: ignore[arg-type]
        studies.run(plan, name, pool, where, at_once, again)
    except RunError as error:
        failure = error
    there = [studies.scored(one) for one in plan.evaluations if one.done()]
    if there:
        terminal.show(method_formats.text(methods.build(there)))
    elif failure is None:
        for training in plan.trainings:
            terminal.show(training.run.path)
    if failure is not None:
        raise failure
