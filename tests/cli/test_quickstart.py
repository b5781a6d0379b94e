import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustctl import data, runs
from robustctl.cli import quickstart


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"quickstart asked for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_it_evaluates_fine_tunes_evaluates_again_and_says_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_network: None
) -> None:
    few = data.load("digits", "test", 20)
    np.savez(tmp_path / "few.npz", x=few.x.numpy(), y=few.y.numpy())
    monkeypatch.setattr(quickstart, "IMAGES", str(tmp_path / "few.npz"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBUSTCTL_RUNS")
    quickstart.command()
    out, err = capsys.readouterr()
    rows = [line.split()[0] for line in out.splitlines() if "[" in line]
    assert rows == ["clean", "linf:0.15", "l2:0.45", "l1:1.4", "average", "union"]
    assert out.rstrip().endswith(quickstart.NEXT.rstrip())
    assert [line[:3] for line in err.splitlines() if line[1:3] == "/3"] == ["1/3", "2/3", "3/3"]
    assert [run.read().status for run in runs.list_runs()] == ["finished"]
    assert runs.newest().path.parent == Path("runs")


@pytest.mark.slow
def test_fine_tuning_raises_the_union_clearly(tmp_path: Path) -> None:
    program = "from robustctl.cli import main; main()"
    command = [sys.executable, "-c", program, "quickstart"]
    environment = {key: value for key, value in os.environ.items() if key != "ROBUSTCTL_RUNS"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    (union,) = [line.split() for line in run.stdout.splitlines() if line.startswith("union")]
    assert float(union[7]) > 15  # union  27.2 [23.5, 31.3]  53.6 [49.2, 57.9]  +26.4  <0.001
