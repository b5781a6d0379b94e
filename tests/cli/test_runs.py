import json
from pathlib import Path

from typer.testing import CliRunner

from robustctl import runs
from robustctl.cli import app


def listing() -> list[str]:
    return CliRunner().invoke(app, ["runs"]).stdout.splitlines()[1:]  # without the header


def test_runs_are_listed_oldest_first_and_a_damaged_one_is_named() -> None:
    assert listing() == []
    record = {
        "schema": "robustctl.run/1",
        "command": "train",
        "model": "m",
        "recipe_name": "r",
        "recipe": {},
        "seed": 0,
        "data": {},
        "device": "cpu",
        "hardware": "h",
        "versions": {},
        "status": "finished",
        "step": 7,
        "steps": 7,
        "best": {"epoch": 1.0, "union": 0.25},
    }
    paths: dict[str, Path] = {}
    for month in ("02", "01"):
        paths[month] = runs.create("m", "r").path
        started = f"2026-{month}-01T00:00:00"
        (paths[month] / runs.RECORD).write_text(json.dumps({**record, "started": started}))
    lines = listing()
    assert [line.split()[0] for line in lines] == [paths["01"].name, paths["02"].name]
    assert "finished" in lines[0] and "7/7" in lines[0] and "25.0 %" in lines[0]
    runs.Run(paths["02"]).update(status="running")
    assert "stopped" in listing()[1]
    with runs.Run(paths["02"]).training():
        assert "running" in listing()[1]
    (paths["01"] / runs.RECORD).write_text("{")
    assert any("damaged" in line for line in listing())
