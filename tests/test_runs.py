import os
from pathlib import Path

import pytest

from robustctl import runs
from robustctl.errors import RequestError


def record(**changes: object) -> runs.RunRecord:
    values = {
        "schema": "robustctl.run/1",
        "command": "finetune",
        "model": "m",
        "recipe_name": "digits/e-at",
        "recipe": {},
        "seed": 0,
        "data": {},
        "device": "cpu",
        "hardware": "h",
        "versions": {},
        "started": "2026-01-01T00:00:00",
    }
    return runs.RunRecord.model_validate({**values, **changes})


def test_names_of_runs_hold_time_model_and_recipe_and_never_collide() -> None:
    paths = [runs.create("some/model name", "e-at").path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all("model-name-e-at" in path.name for path in paths)


def test_record_reads_back_and_updates_in_part() -> None:
    run = runs.create("m", "r")
    run.write(record())
    run.update(status="finished", best={"epoch": 1.0, "union": 0.5})
    assert run.read() == record(status="finished", best={"epoch": 1.0, "union": 0.5})


def test_a_run_that_no_process_trains_has_stopped() -> None:
    run = runs.create("m", "r")
    run.write(record(status="running"))
    assert run.status() == "stopped"
    with run.training():
        assert run.status() == "running"
    assert run.status() == "stopped"
    run.update(status="interrupted")
    assert run.status() == "interrupted"


def test_a_run_is_trained_by_one_process_at_a_time() -> None:
    run = runs.create("m", "r")
    run.write(record())
    with run.training(), pytest.raises(RequestError, match="is being trained by another process"), run.training():
        pass
    with run.training():
        pass


def test_looking_at_a_run_leaves_no_file() -> None:
    run = runs.create("m", "r")
    run.write(record())
    run.status()
    assert [path.name for path in run.path.iterdir()] == [runs.RECORD]


def test_newest_run_is_the_one_started_last() -> None:
    for month in ("03", "05", "04"):
        runs.create("m", "r").write(record(started=f"2026-{month}-01T00:00:00"))
    assert runs.newest().read().started.startswith("2026-05")
    assert len(runs.list_runs()) == 3


def test_no_run_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="there is no run"):
        runs.newest()
    assert runs.find("nothing") is None


def test_run_is_found_by_name_and_by_path() -> None:
    run = runs.create("m", "r")
    run.write(record())
    assert runs.find(run.name) == run and runs.find(str(run.path)) == run


def test_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="is there already"):
        runs.create("m", "r", tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}'])
def test_damaged_record_is_a_request_error(tmp_path: Path, text: str) -> None:
    (tmp_path / runs.RECORD).write_text(text)
    with pytest.raises(RequestError, match=r"run\.json"):
        runs.Run(tmp_path).read()


@pytest.mark.parametrize(("old", "new"), [('"seed": 0', '"seed": 1'), ('"model": "m"', '"model": "n"')])
def test_an_edited_record_is_noticed(old: str, new: str) -> None:
    run = runs.create("m", "r")
    run.write(record())
    path = run.path / runs.RECORD
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RequestError, match="edited or damaged: its checksum does not hold"):
        run.read()


def test_a_record_of_an_older_version_has_no_checksum_and_is_read() -> None:
    run = runs.create("m", "r")
    (run.path / runs.RECORD).write_text(record().model_dump_json(by_alias=True, exclude={"checksum"}))
    assert run.read() == record()


def test_steps_done_are_those_of_the_metrics_where_the_record_lags_behind() -> None:
    run = runs.create("m", "r")
    run.write(record(step=3, steps=57))
    assert run.steps_done() == 3
    (run.path / runs.METRICS).write_text('{"kind": "step", "step": 20}\n{"kind": "selection", "step": 57}\n')
    assert run.steps_done() == 57


def test_evaluations_of_a_run_that_only_others_may_change_go_among_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.create("m", "r", tmp_path / "theirs")
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "mine"))
    assert run.eval_dirs() == [run.path / "eval"]
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(run.path))  # root may do all
    assert run.eval_dir == tmp_path / "mine" / "eval" / run.name
    assert run.eval_dirs() == [run.path / "eval", run.eval_dir]


def test_a_run_that_ended_before_its_first_state_does_not_bar_its_directory(tmp_path: Path) -> None:
    place = tmp_path / "run"
    run = runs.create("m", "r", place)
    (place / ".run.json.part").touch()
    assert runs.create("m", "r", place) == run  # killed before its record
    run.write(record(status="failed"))
    (place / runs.METRICS).write_text('{"step": 0}\n', encoding="utf-8")
    (place / ".model.safetensors.part").touch()
    with runs.create("m", "r", place).training():
        runs.begin(run)
    assert not (place / runs.METRICS).exists()
    (place / "state").mkdir()
    (place / "state" / "last.pt").touch()
    with pytest.raises(RequestError, match="--resume"):
        runs.create("m", "r", place)
    with pytest.raises(RequestError, match="--resume"):  # another process had made it one's own meanwhile
        runs.begin(run)


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_a_directory_with_anything_else_is_never_taken_for_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match="is there already"):
        runs.create("m", "r", tmp_path)
