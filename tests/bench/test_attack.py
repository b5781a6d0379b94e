"""The benchmark's own honesty: same points, all fields, verdicts that the referee gave."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from robustctl.architectures import Classifier
from robustctl.bench.attack import compare
from robustctl.cli import app
from robustctl.data import ImageData
from robustctl.threats import Threat


def test_both_sides_meet_the_same_points_and_the_ratio_is_of_medians(conv_model: Classifier) -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = ImageData(x, conv_model(x).argmax(1), 10, "made", "test", torch.arange(6))
    lines: list[str] = []
    result = compare(
        conv_model, data, [Threat.of("linf", "0.3")], protocol="standard", precision="float32", seed=0,
        batch_size=6, peer_batch_size=6, rounds=2, peer=True, report=lines.append,
    )  # fmt: skip
    ours, peer = result["ours"], result["peer"]
    assert isinstance(ours, dict)
    assert isinstance(peer, dict)
    assert len(ours["seconds"]) == len(peer["seconds"]) == 2
    assert result["ratio"] == pytest.approx(peer["median_seconds"] / ours["median_seconds"])
    assert ours["gradient_evaluations"] > 0
    assert 0 < ours["share_of_time_in_the_model"] < 1
    assert abs(ours["accuracy"]["union"] - peer["accuracy"]["union"]) <= 1 / 6
    assert len(lines) == 4
    json.dumps(result)


def test_bench_train_reports_the_overhead_of_the_attack(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    arguments = ["bench", "train", "--batch-size", "1", "--steps", "1", "--rounds", "1", "--json", str(path)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    result = json.loads(path.read_text())
    assert result["attack_seconds"] > 0
    assert result["overhead"] > -1


def test_bench_attack_names_an_unknown_protocol_and_peer() -> None:
    for option in ("--protocol", "--vs"):
        answer = CliRunner().invoke(app, ["bench", "attack", "--model", "digits-linf", option, "nonsense"])
        assert "nonsense" in str(answer.exception)
