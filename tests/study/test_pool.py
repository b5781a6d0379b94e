"""Where a step runs: on one device, or on the cards of a torchrun group."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.study.pool import Place, command_line, places


def test_one_process_runs_on_each_device_as_it_is() -> None:
    assert places(["cuda:0", "cpu"], 1) == [Place("cuda:0"), Place("cpu")]
    assert Place("cuda:1").environment() == {}
    assert command_line(["eval", "m"], 1) == [sys.executable, "-P", "-m", "robustctl", "eval", "m"]


def test_files_in_the_working_directory_do_not_stand_for_pythons_own(tmp_path: Path) -> None:
    for name in ("queue", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is the file of the user')")
    done = subprocess.run(command_line(["--version"], 1), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("robustctl"), done.stderr


def test_a_group_of_processes_sees_its_own_cards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = places([f"cuda:{i}" for i in range(4)], 2)
    assert second.device == "cuda" and str(second) == "cuda:2,cuda:3"
    assert first.environment() == {"CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert second.environment() == {"CUDA_VISIBLE_DEVICES": "6,7"}, "numbers count the cards that this process sees"


def test_a_group_on_the_cpu_or_on_all_cards_has_one_place() -> None:
    assert places(["cpu"], 2) == [Place("cpu")] and places(["cuda"], 2) == [Place("cuda")]


@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cuda:1", "cuda:2"], ["cuda:0", "cpu"]])
def test_cards_that_do_not_come_in_groups_are_refused(devices: list[str]) -> None:
    with pytest.raises(RequestError, match="groups of 2"):
        places(devices, 2)


def test_torchrun_reads_no_option_of_the_step() -> None:
    line = command_line(["eval", "m", "--n", "3"], 2)
    assert line[3:7] == ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert line[line.index("--") + 1 :] == command_line(["eval", "m", "--n", "3"], 1)
