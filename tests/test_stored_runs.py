"""A run directory that an earlier version left, before the rooms were moved, resumes and evaluates as it did then."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from robustctl.checkpoint import read_tensors
from robustctl.cli import main
from robustctl.runs import Run

FIXTURES = Path(__file__).parent / "fixtures"
ARGUMENTS = [
    "train", "kw-small", "--recipe", "digits/e-at", "--set", "train.epochs=4",
    "--set", 'architecture={"kw-small": {"width": 2, "hidden": 8}}',
]  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The stored run, stopped after 20 of its 44 steps and evaluated there on 30 points."""
    return Path(shutil.copytree(FIXTURES / "stored-run", tmp_path / "stored"))


def _robustctl(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["robustctl", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def test_a_stored_run_resumes_to_the_same_weights_everywhere(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _robustctl(monkeypatch, *ARGUMENTS, "--resume", "--out", stored)
    found, expected = (
        read_tensors(stored / "model.safetensors"),
        read_tensors(FIXTURES / "stored-run-finished.safetensors"),
    )
    assert Run(stored).read().status == "finished"
    # The weights are those that this version reaches: the norm of each step has its own random stream now, which it
    # shared with an image's start when the run was stopped. Float sums differ between versions of torch and
    # processors, and training carries the difference on.
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4)


def test_a_stored_evaluation_goes_on_from_its_verdicts(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(next((stored / "eval").glob("*.json")).read_text())
    _robustctl(monkeypatch, "eval", stored, "--n", 30, "--attack", "fast", "--json", stored / "again.json")
    after = json.loads((stored / "again.json").read_text())
    assert {name: after["points"][name] for name in before["points"]} == before["points"]
    assert "new evaluation" not in capsys.readouterr().err


def test_a_run_killed_between_its_last_state_and_its_record_is_finished_by_resume(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _robustctl(monkeypatch, *ARGUMENTS, "--resume", "--out", stored)
    weights = (stored / "model.safetensors").read_bytes()
    Run(stored).update(status="running", step=0, best=None)  # as the record stood when the process was killed
    (stored / "model.safetensors").write_bytes((FIXTURES / "stored-run" / "model.safetensors").read_bytes())
    assert Run(stored).status() == "stopped" and Run(stored).steps_done() == 72
    _robustctl(monkeypatch, *ARGUMENTS, "--resume", "--out", stored)
    record = Run(stored).read()
    assert (record.status, record.step) == ("finished", 72) and record.best is not None
    assert (stored / "model.safetensors").read_bytes() == weights
