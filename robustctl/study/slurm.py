"""Where the steps of a study run: jobs of a Slurm cluster, through submitit (``pip install 'robustctl[slurm]'``)."""

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

from robustctl.errors import RequestError
from robustctl.files import write_text
from robustctl.study.pool import SECONDS_TO_STOP, Place, RunningStep, command_line

TIMEOUT_MINUTES = 24 * 60


def run(command: list[str], log: Path, directory: Path) -> int:
    """Run a command in ``directory``, in the job; returns its exit code."""
    with log.open("ab") as file:
        return subprocess.run(command, cwd=directory, stdout=file, stderr=file, check=False).returncode


class SlurmJobs:
    """Jobs of a cluster.

    A job's number is kept beside its step: a study that was killed finds the job again, and submits none twice.

    Args:
        folder: for submitit's own files, on a disk that the cluster's machines share.
        options: what submitit is told, e.g. ``{"slurm_partition": "gpu", "gpus_per_node": "1"}``.
        cluster: ``slurm``; ``local`` makes submitit run processes here, which the tests use.
        processes: of each step; torchrun starts several inside the job.
    """

    def __init__(self, folder: Path, options: dict[str, Any], cluster: str = "slurm", processes: int = 1) -> None:
        try:
            import submitit
        except ImportError:
            raise RequestError("--executor slurm needs submitit: pip install 'robustctl[slurm]'") from None
        self.processes = processes
        self.folder, self.kind = folder, {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[cluster]
        try:
            self.executor = submitit.AutoExecutor(folder, cluster=cluster)
            self.executor.update_parameters(**{"timeout_min": TIMEOUT_MINUTES, **options})
        except (RuntimeError, NameError, ValueError) as error:  # sbatch is missing, or an option is unknown
            raise RequestError(f"--executor slurm: {error}") from None

    def start(self, name: str, arguments: list[str], log: Path, place: Place) -> RunningStep:
        """Submit a step, or find the job that does it already."""
        number = self.folder / f"{name}.job"
        job = None
        if number.is_file():
            job = self.kind(folder=self.folder, job_id=number.read_text(encoding="utf-8").strip())
            if job.done():
                job = None  # it ended without its step being done: once more
        if job is None:
            job = self.executor.submit(run, command_line(arguments, self.processes), log.absolute(), Path.cwd())
            write_text(number, f"{job.job_id}\n")
        return _Submitted(job)


class _Submitted:
    def __init__(self, job: Any) -> None:
        self.job = job

    def ended(self) -> int | None:
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception:  # whatever ended the job: memory, time, a signal
            return 1

    def stop(self) -> None:
        self.job.cancel()

    def wait(self) -> None:
        end = time.monotonic() + SECONDS_TO_STOP
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # a cancelled job has no result to be asked for
                if self.job.done():
                    return
            time.sleep(0.2)
