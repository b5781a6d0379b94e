"""The comparison of an accelerator with the CPU: safe to cut, honest about errors, and able to find a difference."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import robust

from robustctl.bench import gpu, gpu_setting, gpu_speed
from robustctl.devices import HOST


def test_it_runs_on_a_cpu_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("bench", "gpu", "--budget", "10m", "--device", "cpu", "--json", tmp_path / "gpu.json") == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert written["schema"] == "robustctl.bench-gpu/1"
    assert written["same"]
    parts = [one["part"] for one in written["parts"]]
    assert parts[0] == "logits kw-small"  # correctness first
    assert parts == gpu.part_names(HOST)
    assert (
        len({"verdicts kw-small linf:8/255", "verdicts kw-small l2:0.5", "verdicts kw-small l1:12"} & set(parts)) == 3
    )
    numbers = {one["part"]: one["numbers"] for one in written["parts"]}
    assert numbers["verdicts kw-small linf:8/255"]["broken_by_cpu"] > 0
    assert numbers["resume kw-small"]["difference_by_movement"] == 0
    assert numbers["epoch e-at kw-small"]["memory_foretold"] > 10**6
    assert not any("error" in one for one in numbers.values()), numbers
    assert numbers["epoch ramp kw-small"]["share_of_peak"] > 0
    assert numbers["evaluation kw-small beside pyautoattack"]["pyautoattack_seconds"] > 0


def test_the_file_holds_all_parts_that_were_done_when_the_run_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "_projections", die)
    assert robust("bench", "gpu", "--device", "cpu", "--json", tmp_path / "gpu.json") != 0
    assert len(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == 4


NAMES = ["logits a", "logits b", "logits c"]


def test_a_run_that_was_cut_goes_on_and_does_no_part_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(name: str, numbers: dict[str, object]) -> tuple[str, gpu.Work]:
        def work() -> tuple[bool, dict[str, object]]:
            if name in fatal:
                raise KeyboardInterrupt
            begun.append(name)
            return True, numbers

        return name, work

    fatal, begun, file = {NAMES[-1]}, [], tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "_parts", lambda *_: iter([part(name, {"n": 1}) for name in NAMES]))
    command = ("bench", "gpu", "--device", "cpu", "--json", file)
    assert robust(*command) != 0
    assert robust(*command, "--resume", "--dry-run") == 0
    listed = "".join(capsys.readouterr())
    assert "logits b: done" in listed and "logits c: planned 2 s on an H100" in listed
    fatal.clear()
    assert robust(*command, "--resume") == 0
    assert begun == NAMES
    assert [one["part"] for one in json.loads(file.read_text())["parts"]] == begun


def test_a_file_of_another_machine_does_not_go_on_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({**gpu.summary(HOST, []), "torch": "1.0"}))
    assert robust("bench", "gpu", "--device", "cpu", "--resume", "--json", file) == 2
    assert "torch is 1.0" in capsys.readouterr().err
    assert robust("bench", "gpu", "--device", "cpu", "--resume") == 2


def test_operations_are_those_of_the_layers_forward_and_backward() -> None:
    x = torch.rand(5, 7, requires_grad=True)
    weight = torch.rand(3, 7, requires_grad=True)
    with gpu_speed.Operations() as counted:
        torch.autograd.grad((x @ weight.T).sum(), [x, weight])
    assert counted.total == 3 * 2 * 5 * 7 * 3


def test_no_part_begins_after_the_time_is_over() -> None:
    assert list(gpu.run(HOST, 0.0)) == []
    assert len(list(gpu.run(HOST, 1e-9))) == 0


@pytest.mark.parametrize("text", ["8", "m", "-1s", "0s", "infs", "nanm", "8 minutes"])
def test_a_budget_without_a_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("bench", "gpu", "--budget", text) == 2
    assert "--budget" in capsys.readouterr().err


def test_a_device_that_computes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu.copy.deepcopy

    def wrong(model: torch.nn.Module) -> torch.nn.Module:
        made = real(model)
        with torch.no_grad():
            next(made.parameters()).mul_(1.1)
        return made

    monkeypatch.setattr(gpu.copy, "deepcopy", wrong)
    first = next(gpu.run(HOST, 60))
    assert first.ok is False
    assert not gpu.summary(HOST, [first])["same"]


def test_a_training_that_goes_on_from_another_state_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu.Loop._load_state

    def half(self: gpu.Loop, state: dict[str, Any]) -> None:
        real(self, state | {"optimizers": {kind: one.state_dict() for kind, one in self.optimizers.items()}})

    monkeypatch.setattr(gpu.Loop, "_load_state", half)
    assert not gpu._resume("kw-small", HOST, gpu_setting.TINY)[0]


def test_the_cpu_attacks_no_network_that_takes_it_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 0.0)
    same, numbers = gpu._verdicts("kw-small", "linf:8/255", HOST, gpu_setting.TINY)
    assert same and numbers["broken_by_cpu"] is None and numbers["broken_by_device"] > 0


def test_every_part_has_a_planned_time_and_all_of_them_fit_the_usual_budget() -> None:
    names = [name for name, _ in gpu._parts(HOST, gpu_setting.Size())]
    assert sum(map(gpu_setting.planned, names)) <= 8 * 60
    assert set(gpu_setting.TARGETS) <= set(names)


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(gpu, "_logits", fail)
    parts = gpu.run(HOST, 60)
    first, second = next(parts), next(parts)
    assert (first.ok, first.numbers) == (False, {"error": "no kernel image is available"})
    assert second.ok
