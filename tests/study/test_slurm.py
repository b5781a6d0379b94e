"""The steps of a study as jobs of submitit, here on its local executor."""

import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from robustctl.errors import RequestError
from robustctl.study.pool import Job
from robustctl.study.slurm import Jobs


def ended(job: Job) -> int:
    end = time.monotonic() + 60
    while (code := job.ended()) is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    return code


def test_a_job_leaves_its_exit_code_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    jobs = Jobs(tmp_path / "jobs", {}, cluster="local")
    first = jobs.start("step", ["recipes", "list", "--dataset", "digits"], log)
    assert ended(first) == 0 and "digits/e-at" in log.read_text()
    again = jobs.start("step", ["recipes", "shw"], log)
    assert ended(again) == 2, "a job that has ended without its step being done is submitted again"


def test_a_study_that_was_killed_finds_its_job_again(tmp_path: Path) -> None:
    class Found:
        def __init__(self, folder: Path, job_id: str) -> None:
            self.job_id = job_id

        def done(self) -> bool:
            return False

    jobs = Jobs(tmp_path / "jobs", {}, cluster="local")
    jobs.kind = Found
    (tmp_path / "jobs").mkdir(exist_ok=True)
    (tmp_path / "jobs" / "step.job").write_text("4711\n")
    job = jobs.start("step", ["recipes", "list"], tmp_path / "log")
    assert job.ended() is None and job.job.job_id == "4711"  # type: ignore[attr-defined]


def test_what_submitit_does_not_take_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--executor slurm: .*no_such_option"):
        Jobs(tmp_path, {"no_such_option": 1}, cluster="local")
