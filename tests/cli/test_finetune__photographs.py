"""``train`` and ``eval`` on a folder of photographs of many sizes, with a recipe for ImageNet."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robustctl import checkpoint, data
from robustctl.data import EncodedData
from robustctl.runs import Run
from robustctl.training.batches import hold_out

ROBUSTCTL = [sys.executable, "-m", "robustctl"]
NETWORK = ["wide-resnet", "--set", "architecture={wide-resnet: {depth: 10, width: 1}}"]
SHORT = ["--set", "selection.images=4", "--set", "selection.steps=1", "--set", "augment.resized_crop=0.3"]
PHASES = "resize=[{at: 0, size: 24, batch_size: 8}, {at: 1, size: 32, batch_size: 4}]"


def robustctl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ROBUSTCTL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def training(data: Path, out: Path, *more: str) -> list[str]:
    recipe = ["--recipe", "imagenet/fgsm", "--set", "train.batch_size=8", "--set", PHASES]
    return ["train", *NETWORK, *recipe, *SHORT, "--data", str(data), "--out", str(out), *more]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(directory / "model.safetensors")


@pytest.fixture
def trained(photographs: Path, tmp_path: Path) -> Path:
    done = robustctl(*training(photographs, tmp_path / "run", "--max-steps", "2"))
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_two_steps_leave_a_model_of_the_last_phases_size_that_is_evaluated_on_any(
    trained: Path, photographs: Path, tmp_path: Path
) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["input_shape"] == [3, 32, 32] and config["n_classes"] == 4
    assert config["resize"] == {"side": 37, "interpolation": "bilinear"}
    asked = ["eval", trained, "--data", photographs, "--split", "val", "--attack", "fast", "--eps", "linf=1/255"]
    asked += ["--precision", "float32"]  # measured, it may differ between the two
    done = robustctl(*asked, "--norms", "linf", "--n", "5", "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert f"images of {photographs}: shorter side to 37 (bilinear), centre 32x32" in done.stderr
    record = json.loads((tmp_path / "a.json").read_text())["data"]
    assert record["n"] == 5 and record["preprocessing"] == "shorter side to 37 (bilinear), centre 32x32"
    (trained / "config.json").write_text(json.dumps({**config, "resize": {"side": 40, "interpolation": "bicubic"}}))
    again = robustctl(*asked, "--norms", "linf", "--n", "5", "--json", tmp_path / "b.json")
    assert again.returncode == 0 and "differs from the last one here in: images" in again.stderr, again.stderr
    compared = robustctl("compare", tmp_path / "a.json", tmp_path / "b.json")
    one, other = (
        "(val), shorter side to 37 (bilinear), centre 32x32",
        "(val), shorter side to 40 (bicubic), centre 32x32",
    )
    differ = re.escape(one) + " differ from the ones of .*" + re.escape(other)
    assert re.search(differ, compared.stdout + compared.stderr)


def test_killed_run_resumes_to_bit_identical_weights(photographs: Path, tmp_path: Path) -> None:
    short = [
        "--set",
        "train.epochs=3",
        "--set",
        "schedule.through=[[0, 0], [1, 1], [2, 0.1]]",
        "--set",
        "overfitting_check.drop=1",
    ]
    whole = robustctl(*training(photographs, tmp_path / "whole", *short))
    assert whole.returncode == 0, whole.stderr
    command = [*ROBUSTCTL, *training(photographs, tmp_path / "parts", *short)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"epoch": 1' in metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Run(tmp_path / "parts").read().status == "running"
    resumed = robustctl("train", "--resume", "--out", tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_photograph_fails_the_run_which_goes_on_once_it_is_repaired(
    trained: Path, photographs: Path, tmp_path: Path
) -> None:
    images = data.load_to_train(str(photographs), "train", any_size=True)
    assert isinstance(images, EncodedData)
    train, _ = hold_out(images, 4)  # what is held out is decoded at the start; this is about the middle
    files = [Path(train.name(position)) for position in range(0, len(train), 2)]
    kept = [path.read_bytes() for path in files]
    for path, content in zip(files, kept, strict=True):
        path.write_bytes(content[:150])
    failed = robustctl("train", "--resume", "--out", trained, "--max-steps", "4")
    assert failed.returncode == 1 and "cannot decode" in failed.stderr and "go on with --resume" in failed.stderr, (
        failed.stderr
    )
    assert Run(trained).read().status == "failed"
    for path, content in zip(files, kept, strict=True):
        path.write_bytes(content)
    resumed = robustctl("train", "--resume", "--out", trained, "--max-steps", "4")
    assert resumed.returncode == 0, resumed.stderr
    whole = robustctl(*training(photographs, tmp_path / "whole", "--max-steps", "4"))
    assert whole.returncode == 0, whole.stderr
    one, other = weights(trained), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_for_small_images_does_not_resize(conv_model, conv_spec, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    checkpoint.save_model(conv_model, conv_spec, tmp_path / "model")
    refused = robustctl("eval", tmp_path / "model", "--data", photographs, "--split", "val")
    assert refused.returncode == 2 and "sizes must be equal" in refused.stderr
