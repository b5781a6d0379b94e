"""Commands with ``--device standin``: the same verdicts and numbers as with ``--device cpu``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import robust
from torch import nn

from robustctl import checkpoint, geometry
from robustctl.evaluation import families
from robustctl.spec import ModelSpec

EPS = ["--eps", "linf=0.03,l2=0.2,l1=0.6", "--precision", "float32", "--attack", "standard"]
TIMES = ("seconds", "device", "started", "key", "store", "saved")


@pytest.fixture
def subject(conv_model: nn.Module, conv_spec: ModelSpec, tmp_path: Path) -> list[str]:
    """A model and images that it gets right."""
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = conv_model(x).argmax(1)
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    (tmp_path / "model").mkdir()
    checkpoint.save_model(conv_model, conv_spec, tmp_path / "model")
    return [str(tmp_path / "model"), "--data", str(tmp_path / "images.npz")]


def at_home(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Models, runs and verdicts of a machine of its own: else verdicts of the CPU would be taken over."""
    for name in ("ROBUSTCTL_HOME", "ROBUSTCTL_RUNS"):
        patch.setenv(name, str(path / name))


def result(path: Path) -> dict[str, Any]:
    """A result without what a clock or the machine says."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}


def test_an_evaluation_killed_and_resumed_finds_what_the_cpu_finds(
    subject: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "is_host", lambda _: False)  # the ways that are meant for accelerators
    monkeypatch.setattr(families, "default_batch_size", lambda _: 200)
    at_home(monkeypatch, tmp_path / "one")
    assert robust("eval", *subject, *EPS, "--device", "cpu", "--json", tmp_path / "cpu.json") == 0
    at_home(monkeypatch, tmp_path / "other")
    real, calls = families.FullBatch.step, []

    def step(batch: families.FullBatch) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        real(batch)

    again = ["eval", *subject, *EPS, "--device", "standin:1", "--json", tmp_path / "standin.json"]
    with monkeypatch.context() as patch:
        patch.setattr(families.FullBatch, "step", step)
        assert robust(*again) != 0
    assert robust(*again) == 0
    assert result(tmp_path / "standin.json") == result(tmp_path / "cpu.json")
    assert json.loads((tmp_path / "standin.json").read_text())["device"] == "the stand-in"


def test_intermediate_q(subject: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "is_host", lambda _: False)
    for device in ("cpu", "standin"):
        at_home(monkeypatch, tmp_path / device)
        options = ["--intermediate-q", "1,10", "--distribution", "linf:0.1", "--samples", "32", "--n", "2"]
        options += ["--estimator", "path", "--most-samples", "32", "--device", device]
        assert robust("eval", *subject, *options, "--json", tmp_path / f"{device}.json") == 0
    assert result(tmp_path / "standin.json") == result(tmp_path / "cpu.json")
