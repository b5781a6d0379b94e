"""The steps of a study as jobs of submitit, on its local executor and on commands that play a Slurm cluster."""

import os
import stat
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from robustctl.errors import RequestError
from robustctl.study.pool import Place, RunningStep
from robustctl.study.slurm import SlurmJobs

CPU = Place("cpu")


def ended(job: RunningStep) -> int:
    end = time.monotonic() + 60
    while (code := job.ended()) is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    return code


def test_a_job_leaves_its_exit_code_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    jobs = SlurmJobs(tmp_path / "jobs", {}, cluster="local")
    first = jobs.start("step", ["recipes", "list", "--dataset", "digits"], log, CPU)
    assert ended(first) == 0 and "digits/e-at" in log.read_text()
    again = jobs.start("step", ["recipes", "shw"], log, CPU)
    assert ended(again) == 2, "a job that has ended without its step being done is submitted again"


def test_a_study_that_was_killed_finds_its_job_again(tmp_path: Path) -> None:
    class Found:
        def __init__(self, folder: Path, job_id: str) -> None:
            self.job_id = job_id

        def done(self) -> bool:
            return False

    jobs = SlurmJobs(tmp_path / "jobs", {}, cluster="local")
    jobs.kind = Found
    (tmp_path / "jobs").mkdir(exist_ok=True)
    (tmp_path / "jobs" / "step.job").write_text("4711\n")
    job = jobs.start("step", ["recipes", "list"], tmp_path / "log", CPU)
    assert job.ended() is None and job.job.job_id == "4711"  # type: ignore[attr-defined]


def test_what_submitit_does_not_take_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--executor slurm: .*no_such_option"):
        SlurmJobs(tmp_path, {"no_such_option": 1}, cluster="local")


SBATCH = """#!/bin/sh
# Plays sbatch: the job runs here and now, in the background, as Slurm would start it.
export SLURM_JOB_ID=4711 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
export SLURM_JOB_NODELIST=here
cp "$1" "{folder}/script.sh"
sh "{folder}/script.sh" > "{folder}/out" 2>&1 &
echo Submitted batch job 4711
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
echo '4711|RUNNING|here'
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of a cluster on the path; returns the folder that holds the job's script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    cancelled = f"#!/bin/sh\necho $1 > {folder}/cancelled\n"
    texts = {"sbatch": SBATCH.replace("{folder}", str(folder)), "srun": SRUN, "sacct": SACCT, "scancel": cancelled}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o700 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_job_of_a_cluster_asks_for_what_was_said_and_runs_the_step(tmp_path: Path, cluster: Path) -> None:
    log = tmp_path / "step.log"
    options = {"slurm_partition": "gpu", "gpus_per_node": 2, "timeout_min": 90, "slurm_account": "lab"}
    jobs = SlurmJobs(tmp_path / "jobs", options)
    job = jobs.start("step", ["recipes", "list", "--dataset", "digits"], log, CPU)
    assert ended(job) == 0, (cluster / "out").read_text()
    assert "digits/e-at" in log.read_text()
    asked = [line.removeprefix("#SBATCH --") for line in (cluster / "script.sh").read_text().splitlines()]
    for line in ("partition=gpu", "gpus-per-node=2", "time=90", "account=lab"):
        assert line in asked
    job.stop()
    assert (cluster / "cancelled").read_text().strip() == "4711"


def test_without_a_time_limit_a_job_asks_for_a_day(tmp_path: Path, cluster: Path) -> None:
    job = SlurmJobs(tmp_path / "jobs", {}).start("step", ["recipes", "shw"], tmp_path / "step.log", CPU)
    assert ended(job) == 2, "the exit code is the step's own"
    assert "#SBATCH --time=1440" in (cluster / "script.sh").read_text()


def test_a_job_of_several_processes_starts_torchrun_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, given = SlurmJobs(tmp_path / "jobs", {}, cluster="local", processes=2), []
    monkeypatch.setattr(jobs.executor, "submit", lambda *call: given.append(call) or type("Job", (), {"job_id": "1"})())
    jobs.start("step", ["eval", "m", "--n", "3"], tmp_path / "log", CPU)
    assert given[0][1][:4] == [sys.executable, "-P", "-m", "torch.distributed.run"]
    assert given[0][1][-4:] == ["eval", "m", "--n", "3"]
