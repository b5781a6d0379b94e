"""The comparison of an accelerator with the CPU: safe to cut, honest about errors, and able to find a difference."""

import json
from pathlib import Path

import pytest
import torch
from command import robust

from robustctl.bench import gpu
from robustctl.devices import HOST


def test_it_runs_on_a_cpu_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("bench", "gpu", "--budget", "60s", "--device", "cpu", "--json", tmp_path / "gpu.json") == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert written["schema"] == "robustctl.bench-gpu/1"
    assert written["same"]
    parts = [one["part"] for one in written["parts"]]
    assert parts[0] == "logits kw-small"  # correctness first
    assert parts[-1] == "attack kw-small"
    assert (
        len({"verdicts kw-small linf:8/255", "verdicts kw-small l2:0.5", "verdicts kw-small l1:12"} & set(parts)) == 3
    )
    numbers = {one["part"]: one["numbers"] for one in written["parts"]}
    assert numbers["verdicts kw-small linf:8/255"]["broken_by_cpu"] > 0
    assert not any("error" in one for one in numbers.values())


def test_the_file_holds_all_parts_that_were_done_when_the_run_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "_projections", die)
    assert robust("bench", "gpu", "--device", "cpu", "--json", tmp_path / "gpu.json") != 0
    assert len(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == 4


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


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(gpu, "_logits", fail)
    parts = gpu.run(HOST, 60)
    first, second = next(parts), next(parts)
    assert (first.ok, first.numbers) == (False, {"error": "no kernel image is available"})
    assert second.ok
