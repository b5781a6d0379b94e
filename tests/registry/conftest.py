"""Fixtures of the registry: a hub on the loopback, an empty home, a small model directory."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.registry import download
from robustctl.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))  # hub_server.py stands beside this file

from hub_server import Server

TOKEN = "hf_planted_0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ROBUSTCTL_HOME, and no trace of the user's own hub settings."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ROBUSTCTL_HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running hub whose user alice has a token that may write; waits between attempts are cut short."""
    objects = tmp_path / "objects"
    objects.mkdir()
    users = {TOKEN: ("alice", "write", ["team"]), "hf_reader": ("rita", "read", [])}
    server = Server(objects, users)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "LONGEST_WAIT_SECONDS", 0.01)
    yield server
    server.close()


@pytest.fixture
def spec() -> ModelSpec:
    """A kw-small for 8x8 images."""
    return ModelSpec.model_validate(
        {
            "architecture": {"name": "kw-small", "args": {"width": 2, "hidden": 4}},
            "input_shape": [1, 8, 8],
            "n_classes": 10,
            "dataset": "digits",
        }
    )


@pytest.fixture
def model_dir(tmp_path: Path, spec: ModelSpec) -> Path:
    """A model directory with random weights."""
    torch.manual_seed(0)
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.save_model(build(spec), spec, folder)
    return folder
