"""The commands as a user runs them, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import Classifier
from robustctl.runs import Run
from robustctl.spec import ModelSpec

SHORT = ["--set", "train.epochs=1", "--set", "attack.steps=2", "--set", "selection.images=50"]


@pytest.fixture
def model(conv_model: Classifier, conv_spec: ModelSpec, tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    checkpoint.save_model(conv_model, conv_spec, directory)
    return directory


def robustctl(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "robustctl", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(directory / "model.safetensors")


def test_finetune_leaves_a_finished_run_that_is_a_model(model: Path, tmp_path: Path) -> None:
    done = robustctl("finetune", model, "--recipe", "e-at", *SHORT, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run")
    assert "E-AT's assumption holds" in done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished" and record["overrides"] == [text for text in SHORT if "=" in text]
    assert record["recipe"]["train"]["epochs"] == 1 and record["versions"]["torch"] == torch.__version__
    checkpoint.load_model(tmp_path / "run")
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_killed_run_resumes_to_bit_identical_weights(model: Path, tmp_path: Path) -> None:
    more = ["--set", "train.epochs=3", "--set", "attack.steps=10"]
    whole = robustctl("finetune", model, "--recipe", "e-at", *more, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "robustctl", "finetune", str(model), "--recipe", "e-at", *more]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "parts")], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"epoch": 1' in metrics.read_text()):
        time.sleep(0.01)
    assert Run(tmp_path / "parts").status() == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Run(tmp_path / "parts").read().status == "running"
    assert Run(tmp_path / "parts").status() == "stopped"
    resumed = robustctl("finetune", "--resume", "--out", tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    assert all(
        torch.equal(value, weights(tmp_path / "parts")[key]) for key, value in weights(tmp_path / "whole").items()
    )


def test_sigterm_exits_130_and_resume_without_a_name_goes_on(model: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "robustctl",
        "finetune",
        str(model),
        "--recipe",
        "e-at",
        "--set",
        "train.epochs=50",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    runs = Path(os.environ["ROBUSTCTL_RUNS"])
    while process.poll() is None and not list(runs.glob("*/metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in errors
    (run,) = runs.iterdir()
    step = json.loads((run / "run.json").read_text())["step"]
    resumed = robustctl("finetune", "--resume", "--max-steps", step + 1)
    assert resumed.returncode == 0 and str(run) in resumed.stdout, resumed.stderr


def test_resume_with_a_changed_recipe_is_refused_and_names_the_keys(model: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert robustctl("finetune", model, "--recipe", "e-at", *SHORT, "--max-steps", 2, *out).returncode == 0
    changed = robustctl("finetune", "--resume", "--recipe", "e-at", *SHORT, "--set", "optim.lr=0.2", "--seed", 3, *out)
    assert changed.returncode == 2
    assert "optim.lr.default (given 0.2, the run has 0.05)" in changed.stderr and "--seed (given 3" in changed.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--recipe", "e-att"], "Did you mean 'e-at'?"),
        (["--recipe", "cifar10/e-at"], "is for dataset 'cifar10', the model for 'digits'"),
        (["--recipe", "e-at", "--set", "optim.lrr=1"], "Did you mean 'lr'?"),
        (["--recipe", "e-at", "--set", "selection.images=1000"], "selection.images is 1000"),
        (["--recipe", "e-at", "--set", "train.batch_size=5000"], "train.batch_size"),
        (["--recipe", "e-at", "--set", "optim.lr={wide-resnet: 0.1}"], "--set optim.lr.kw-small=0.01"),
        (["--recipe", "e-at", "--set", "extra.path=nowhere"], "extra.path: no file at nowhere"),
        (["--recipe", "e-at", "--data", "nowhere"], "nowhere"),
        (["--recipe", "e-at", "--device", "cuda:7"], "cuda:7"),
        ([], "--recipe R"),
        (["--resume"], "no unfinished run"),
    ],
)
def test_bad_request_exits_2_with_one_message_and_leaves_nothing(
    model: Path, arguments: list[str], expected: str
) -> None:
    done = robustctl("finetune", model, *arguments)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert not list(Path(os.environ["ROBUSTCTL_RUNS"]).glob("*"))


def test_tensorboard_that_is_not_installed_is_refused_before_training(model: Path) -> None:
    if find_spec("tensorboard") is not None:
        pytest.skip("tensorboard is installed")
    done = robustctl("finetune", model, "--recipe", "e-at", "--tensorboard")
    assert done.returncode == 2 and "pip install tensorboard" in done.stderr


def test_unwritable_push_target_is_refused_before_training(model: Path) -> None:
    done = robustctl("finetune", model, "--recipe", "e-at", "--push", "nobody/nothing")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr.strip(), done.stderr
    assert not Path(os.environ["ROBUSTCTL_RUNS"]).exists()


def test_dry_run_says_what_would_be_done_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    done = robustctl("finetune", model, "--recipe", "e-at", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "trained on linf:0.15" in done.stderr, done.stderr
    assert not Path(os.environ["ROBUSTCTL_RUNS"]).exists()


def test_other_number_of_classes_needs_a_new_head(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "three.npz", x=images, y=np.arange(80) % 3)
    data = ("--data", tmp_path / "three.npz", "--set", "selection.images=8", "--max-steps", 1)
    refused = robustctl("finetune", model, "--recipe", "e-at", *data)
    assert refused.returncode == 2 and "--new-head" in refused.stderr
    done = robustctl("finetune", model, "--recipe", "e-at", *data, "--new-head", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    loaded, spec = checkpoint.load_model(tmp_path / "run")
    assert spec.n_classes == 3 and loaded(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_exploding_rate_fails_with_1_and_the_run_says_so(model: Path, tmp_path: Path) -> None:
    done = robustctl(
        "finetune", model, "--recipe", "e-at", "--set", "optim.lr=1e9", "--set", "schedule.name=constant",
        "--set", "schedule.peak=0.5", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 2 and "schedule.peak" in done.stderr, "constant takes no peak"
    shutil.copy(Path(__file__).parents[2] / "recipes" / "digits" / "e-at.yaml", tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text().replace("name: cyclic\n  peak: 0.1", "name: constant")
    (tmp_path / "mine.yaml").write_text(text)
    done = robustctl(
        "finetune", model, "--recipe", tmp_path / "mine.yaml", "--set", "optim.lr=1e9", "--out", tmp_path / "run"
    )
    assert done.returncode == 1 and "The last good weights are in" in done.stderr, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert all(torch.equal(value, weights(model)[key]) for key, value in weights(tmp_path / "run").items())
