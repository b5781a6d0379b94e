"""The precision of training's passes: float32 on the host, measured once a run where a device has a choice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl.processes import World
from robustctl.training import mixed_precision
from robustctl.training.mixed_precision import MixedPrecision

CPU = torch.device("cpu")


def product() -> torch.dtype:
    return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host plays a device that has bfloat16."""
    monkeypatch.setattr(mixed_precision, "is_host", lambda _: False)
    monkeypatch.setattr(mixed_precision, "has_bf16", lambda _: True)


def timed(monkeypatch: pytest.MonkeyPatch, bfloat16: float) -> list[bool]:
    """Pretend seconds of a pass; float32 takes one. Returns the passes that are asked for."""
    asked: list[bool] = []

    def seconds(self: MixedPrecision, model: Any, x: Any, low: bool) -> float:
        asked.append(low)
        return bfloat16 if low else 1.0

    monkeypatch.setattr(MixedPrecision, "_seconds", seconds)
    return asked


def test_auto_is_float32_on_the_host_without_a_measurement(
    settings_for: Any, make_loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, 0.1)
    with MixedPrecision(settings_for({"name": "at"}), CPU)():
        assert product() == torch.float32
    with MixedPrecision(settings_for({"name": "at"}, precision="bfloat16"), CPU)():
        assert product() == torch.bfloat16
    make_loop(settings_for({"name": "at"}), tmp_path / "run").run(max_steps=1)
    assert not asked


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(("seconds", "low"), [(0.5, True), (2.0, False)])
def test_the_faster_one_is_taken_recorded_and_kept_by_a_run_that_goes_on(
    seconds: float,
    low: bool,
    settings_for: Any,
    make_loop: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    timed(monkeypatch, seconds)
    loop = make_loop(settings_for({"name": "at"}), tmp_path / "run")
    loop.run(max_steps=1)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["kind"] == "precision"]
    assert (line["bfloat16"], line["pass_seconds"]) == (low, {"bfloat16": seconds, "float32": 1.0})
    assert "ms in bfloat16" in capsys.readouterr().err
    asked = timed(monkeypatch, 3.0 - seconds)  # were it measured again, the other would be taken
    again = make_loop(settings_for({"name": "at"}), tmp_path / "run", resuming=True)
    again.run(max_steps=2)
    assert again.context.autocast.low is low
    assert not asked


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(("precision", "low"), [("float32", False), ("bfloat16", True)])
def test_a_precision_that_is_said_is_taken_also_by_a_run_that_goes_on(
    precision: str, low: bool, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, 0.5)
    context = MixedPrecision(settings_for({"name": "at"}, precision=precision), CPU)
    context.decide(torch.nn.Linear(2, 2), torch.rand(2, 2), World(), lambda line: None)
    context.load_state(not low)
    assert (context.low, asked) == (low, [])


@pytest.mark.usefixtures("accelerator")
def test_an_earlier_versions_run_goes_on_in_bfloat16_and_a_compiled_one_is_not_measured(settings_for: Any) -> None:
    context = MixedPrecision(settings_for({"name": "at"}), CPU)
    context.load_state(None)
    assert (context.low, context.open) == (True, False)
    assert not MixedPrecision(settings_for({"name": "at"}, compile=True), CPU).open


@pytest.mark.usefixtures("accelerator")
def test_the_measurement_leaves_weights_statistics_modes_and_random_numbers_as_they_were(settings_for: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    told: list[dict[str, Any]] = []
    context = MixedPrecision(settings_for({"name": "at"}), CPU)
    context.decide(model, torch.rand(8, 4, generator=torch.Generator().manual_seed(1)), World(), told.append)
    assert told and min(told[0]["pass_seconds"].values()) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("accelerator")
def test_where_memory_runs_out_bfloat16_stays(settings_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("made")

    monkeypatch.setattr(MixedPrecision, "_seconds", full)
    context = MixedPrecision(settings_for({"name": "at"}), CPU)
    context.decide(torch.nn.Linear(2, 2), torch.rand(2, 2), World(), lambda line: pytest.fail("told"))
    assert context.low
