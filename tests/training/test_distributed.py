"""Two processes on the CPU (gloo) against one, at the same global batch."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.distributed import SharedBatchNorm2d, World, share_batch_norm

CASES = {
    "e-at": ["--recipe", "e-at", "--set", "attack.steps=3"],
    "fgsm": ["--recipe", "fgsm", "--set", "method.start=previous"],
}


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


@pytest.mark.parametrize("case", ["e-at", pytest.param("fgsm", marks=pytest.mark.slow)])
def test_two_processes_reach_the_weights_of_one(case: str, model: Path, tmp_path: Path) -> None:
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    common = [*CASES[case], "--set", "optim.lr=0.02", "--set", "selection.images=20", "--max-steps", 4]
    one = run([], model, *common, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    both = run(two, model, *common, "--out", tmp_path / "two")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count(str(tmp_path / "two")) == 1, "one process talks"
    start = checkpoint.read_tensors(model / "model.safetensors")
    a, b = (checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    moved = sum(float((a[name].double() - start[name].double()).square().sum()) for name in a) ** 0.5
    apart = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5
    assert apart < 2e-3 * moved, f"moved {moved}, apart {apart}"
    assert json.loads((tmp_path / "two" / "run.json").read_text())["status"] == "finished"


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
