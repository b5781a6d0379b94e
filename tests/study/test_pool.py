"""Where a step runs: on one device, or on the cards of a torchrun group."""

import sys

import pytest

from robustctl.errors import RequestError
from robustctl.study.pool import Place, command_line, places


def test_one_process_runs_on_each_device_as_it_is() -> None:
    assert places(["cuda:0", "cpu"], 1) == [Place("cuda:0"), Place("cpu")]
    assert Place("cuda:1").environment() == {}
    assert command_line(["eval", "m"], 1) == [sys.executable, "-m", "robustctl", "eval", "m"]


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
    assert line[2:6] == ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert line[line.index("--") + 1 :] == ["eval", "m", "--n", "3"]
