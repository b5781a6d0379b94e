"""Two processes on the CPU (gloo) against one, at the same global batch."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.processes import SharedBatchNorm2d, World, share_batch_norm
from robustctl.spec import Architecture, ModelSpec

CASES = {
    "e-at": ["--recipe", "e-at", "--set", "attack.steps=3"],
    "fgsm": ["--recipe", "fgsm", "--set", "method.start=previous"],
    "avg": ["--recipe", "avg"],
    "max": ["--recipe", "max"],
    "ramp": ["--recipe", "ramp"],  # its pairing is a mean over a mask that differs between the processes
    "trades": ["--recipe", "trades"],
    "checkpoint": ["--recipe", "ramp", "--set", "train.checkpoint=true"],
    "shard": ["--recipe", "e-at", "--set", "train.shard=true"],
}
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network with batch norm, whose statistics must be shared."""
    spec = ModelSpec(
        architecture=Architecture(name="wide-resnet", args={"depth": 10, "width": 1}),
        input_shape=(1, 8, 8),
        n_classes=10,
        dataset="digits",
    )
    torch.manual_seed(0)
    directory = tmp_path / "model"
    directory.mkdir()
    checkpoint.save_model(build(spec), spec, directory)
    return directory


def run(launcher: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "robustctl", "finetune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("case", ["e-at", *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[1:])])
def test_two_processes_reach_the_weights_of_one(case: str, model: Path, tmp_path: Path) -> None:
    common = [*CASES[case], "--set", "optim.lr=0.02", "--set", "selection.images=20", "--max-steps", 4]
    one = run([], model, *common, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    both = run(TWO, model, *common, "--out", tmp_path / "two")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count(str(tmp_path / "two")) == 1, "one process talks"
    start = checkpoint.read_tensors(model / "model.safetensors")
    a, b = (checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    moved = sum(float((a[name].double() - start[name].double()).square().sum()) for name in a) ** 0.5
    apart = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5
    assert apart < 2e-3 * moved, f"moved {moved}, apart {apart}"
    assert json.loads((tmp_path / "two" / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_two_processes_in_micro_batches_reach_the_weights_of_one_with_whole_batches(tmp_path: Path) -> None:
    architecture = Architecture(name="kw-small", args={"width": 2, "hidden": 8})  # no batch norms
    spec = ModelSpec(architecture=architecture, input_shape=(1, 8, 8), n_classes=10, dataset="digits")
    torch.manual_seed(0)
    model = tmp_path / "model"
    model.mkdir()
    checkpoint.save_model(build(spec), spec, model)
    common = ["--recipe", "ramp", "--set", "optim.lr=0.02", "--set", "selection.images=20", "--max-steps", 4]
    one = run([], model, *common, "--out", tmp_path / "one")
    both = run(TWO, model, *common, "--set", "train.micro_batch=10", "--out", tmp_path / "two")
    assert (one.returncode, both.returncode) == (0, 0), one.stderr + both.stderr
    a, b = (checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-5)


STUDY = """
models: digits-linf
recipes: [start, e-at]
n: 24
precision: float32
set: {train.epochs: 1, attack.steps: 2, selection.images: 17, train.shard: true, optim.lr: 0.02}
"""


@pytest.mark.slow
def test_four_processes_do_a_study_as_one_does(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    tables, weights = [], []
    for processes in (1, 4):
        runs = tmp_path / str(processes)
        command = ["study", str(file), "--devices", "cpu", "--processes", str(processes)]
        environment = {**os.environ, "ROBUSTCTL_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, "-m", "robustctl", *command], capture_output=True, text=True, timeout=900, env=environment
        )
        assert ran.returncode == 0, ran.stderr
        tables.append(ran.stdout)
        weights += [checkpoint.read_tensors(path) for path in runs.glob("*/model.safetensors")]
    assert tables[0] == tables[1]
    one, four = weights
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=0, atol=1e-5)


def workers(launcher: int) -> list[int]:
    """Process ids of the launcher's children that train."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended a moment ago
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"finetune" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("case", ["e-at", "shard"])
def test_a_killed_worker_ends_the_others_and_leaves_a_run_that_resumes(case: str, model: Path, tmp_path: Path) -> None:
    arguments = [model, *CASES[case], "--set", "optim.lr=0.02", "--set", "selection.images=20"]
    arguments += ["--set", "train.epochs=2"]
    assert run(TWO, *arguments, "--out", tmp_path / "whole").returncode == 0
    command = [
        sys.executable,
        *TWO,
        "-m",
        "robustctl",
        "finetune",
        *map(str, arguments),
        "--out",
        str(tmp_path / "cut"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launcher:
        metrics = tmp_path / "cut" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and '"selection"' in metrics.read_text()):  # one epoch is done
            assert time.monotonic() < deadline and launcher.poll() is None
            time.sleep(0.02)
        os.kill(workers(launcher.pid)[-1], signal.SIGKILL)
        launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    resumed = run(TWO, "--resume", "--out", tmp_path / "cut")
    assert resumed.returncode == 0, resumed.stderr
    weights = [checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shared_batch_norm_is_batch_norm_in_every_precision(alone: None, dtype: torch.dtype) -> None:
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    plain, shared = nn.BatchNorm2d(3, dtype=parameters), nn.BatchNorm2d(3, dtype=parameters)
    share_batch_norm(shared)
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)).mul(3).add(20).to(dtype)
    outs, grads = [], []
    for norm in (plain, shared):
        leaf = x.clone().requires_grad_(True)
        out = norm(leaf)
        (out * out.detach().cos()).sum().backward()
        outs.append(out.detach())
        grads.append(leaf.grad)
    assert isinstance(shared, SharedBatchNorm2d) and outs[1].dtype == dtype
    size = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(*outs, rtol=size, atol=size)
    torch.testing.assert_close(*grads, rtol=2 * size, atol=2 * size)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(shared.get_buffer(name), buffer, rtol=1e-5, atol=1e-5)


def test_batch_that_cannot_be_shared_evenly_is_a_request_error() -> None:
    assert World(1, 2).part(8) == slice(4, 8)
    with pytest.raises(RequestError, match=r"train\.batch_size 7"):
        World(0, 2).part(7)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_cover_the_points_once(size: int) -> None:
    points = list(range(3, 20))
    shares = [World(rank, size).share(points) for rank in range(size)]
    assert sorted(point for share in shares for point in share) == points
