"""The benchmark's own honesty: same points, all fields, verdicts that the referee gave."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from robustctl import seeds
from robustctl.architectures import Classifier
from robustctl.attacks.fab import fab
from robustctl.attacks.square import square
from robustctl.bench import attack
from robustctl.bench.attack import TimedOracle, compare
from robustctl.cli import app
from robustctl.data import ImageData
from robustctl.evaluation import referee
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


def test_an_adaptive_protocol_is_timed_against_the_one_that_it_replaces(conv_model: Classifier) -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = ImageData(x, conv_model(x).argmax(1), 10, "made", "test", torch.arange(6))
    result = compare(
        conv_model, data, [Threat.of("linf", "0.3")], protocol="adaptive", precision="float32", seed=0,
        batch_size=6, peer_batch_size=6, rounds=1, peer=True, report=lambda line: None,
    )  # fmt: skip
    ours, peer = result["ours"], result["peer"]
    assert isinstance(ours, dict)
    assert isinstance(peer, dict)
    assert ours["gradient_evaluations"] > 0
    assert ours["accuracy"]["union"] <= peer["accuracy"]["union"] + 1 / 6


def test_bench_train_compares_our_step_with_the_authors(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    arguments = ["bench", "train", "--batch-size", "1", "--steps", "1", "--rounds", "1", "--json", str(path)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    result = json.loads(path.read_text())
    assert result["attack_seconds"] > 0
    assert result["overhead"] > -1
    assert result["fast_copy"] and min(result[name] for name in ("step_ratio", "attack_ratio", "copy_ratio")) > 0


@pytest.mark.slow  # half a minute
def test_bench_train_times_compiled_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    path = tmp_path / "train.json"
    arguments = ["bench", "train", "--architecture", "kw-small", "--batch-size", "2", "--steps", "1", "--rounds", "1"]
    answer = CliRunner().invoke(app, [*arguments, "--compile", "--json", str(path)])
    assert answer.exit_code == 0, answer.output
    result = json.loads(path.read_text())
    assert "are compiled" in answer.output
    assert min(result[f"compiled_{name}"] for name in ("step_ratio", "attack_ratio", "attack_seconds")) > 0
    assert result["compile_seconds"] > 0


def test_bench_attack_names_an_unknown_protocol_and_peer() -> None:
    for option in ("--protocol", "--vs"):
        answer = CliRunner().invoke(app, ["bench", "attack", "--model", "digits-linf", option, "nonsense"])
        assert "nonsense" in str(answer.exception)


class Clock:
    """Advances by a second with every pass through the model."""

    def __init__(self, model: Classifier) -> None:
        self.seconds, self.images, self.backward_images = 0.0, 0, 0

        def tick(module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            self.seconds += 1
            if output.requires_grad:
                self.backward_images += len(output)
            else:
                self.images += len(output)

        model.register_forward_hook(tick)

    def perf_counter(self) -> float:
        return self.seconds


@pytest.mark.parametrize("name", ["fab", "square"])
def test_every_pass_of_fab_and_square_is_counted_and_timed(
    conv_model: Classifier, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = conv_model(x).argmax(1)
    clock = Clock(conv_model)
    monkeypatch.setattr(attack, "time", clock)
    with TimedOracle(conv_model) as oracle:
        if name == "fab":
            fab(oracle, x, y, Threat.of("linf", "0.2"), steps=5, targets=3)
        else:
            generators = seeds.generators(0, "s", range(5))
            square(oracle, x, y, Threat.of("linf", "0.2"), queries=20, generator=generators)
    assert (oracle.forwards, oracle.gradients) == (clock.images, clock.backward_images)
    assert oracle.seconds == clock.seconds > 0
    assert name == "square" or 0 < oracle.gradients <= 5 * 5 * 3


def test_the_referee_joins_batches_as_in_an_evaluation(conv_model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = ImageData(x, conv_model(x).argmax(1), 10, "made", "test", torch.arange(6))
    judged: list[int] = []
    plain = referee.judge
    monkeypatch.setattr(referee, "judge", lambda model, x, *more: judged.append(len(x)) or plain(model, x, *more))

    def one_by_one(run: object, left: list[int]) -> object:
        yield from (attack.Finished([position], data.images([position])) for position in left)

    monkeypatch.setattr(attack, "run_family", one_by_one)
    compare(
        conv_model, data, [Threat.of("linf", "0.3")], protocol="standard", precision="float32", seed=0,
        batch_size=4, peer_batch_size=6, rounds=1, peer=False, report=lambda line: None,
    )  # fmt: skip
    assert judged == [4, 2] * 2, "two attacks"


def test_bench_attack_runs_on_the_bundled_model_and_writes_its_json(tmp_path: Path) -> None:
    path = tmp_path / "attack.json"
    asked = ["--vs", "autoattack", "--n", "4", "--norms", "linf", "--rounds", "1", "--precision", "bf16"]
    answer = CliRunner().invoke(app, ["bench", "attack", *asked, "--json", str(path)])
    assert answer.exit_code == 0, answer.output
    result = json.loads(path.read_text())
    assert result["model"] == "digits-linf"
    assert result["precision"] == "bf16"
    assert result["ratio"] == pytest.approx(result["peer"]["median_seconds"] / result["ours"]["median_seconds"])
    assert result["n"] == 4


@pytest.mark.parametrize("command", [["attack", "--norms", "linf"], ["intermediate", "--distribution", "linf:0.1"]])
def test_columns_and_classes_are_read_as_in_eval(tmp_path: Path, command: list[str]) -> None:
    pictures = []
    for i in range(4):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), 60 * i, dtype=np.uint8)).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"picture": pictures, "other": pictures, "kind": ["nought", "one", "two", "three"]})
    parquet.write_table(table, tmp_path / "test.parquet")
    mapping = tmp_path / "classes.yaml"
    mapping.write_text("{nought: 0, one: 1, two: 2, three: 3}")
    asked = ["bench", *command, "--model", "digits-linf", "--data", str(tmp_path), "--n", "2", "--rounds", "1"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code != 0
    small = ["--own-labels"] if command[0] == "attack" else ["--q", "1", "--samples", "12", "--leapfrog", "1"]
    said = ["--columns", "image=picture,label=kind", "--classes", str(mapping)]
    answer = CliRunner().invoke(app, [*asked, *small, *said])
    assert answer.exit_code == 0, answer.output
