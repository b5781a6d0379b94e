"""What every test may use: small models, a private home, the reference data where it is there."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robustctl.architectures import Classifier, build
from robustctl.spec import Architecture, ModelSpec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

pytest_plugins = ["claimed", "registry_fixtures", "result_fixtures"]

# Several workers share the cores: one thread each is fastest, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's models, runs, tokens and settings, and from the network."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ROBUSTCTL_HOME", str(home / "models"))
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(home / "runs"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    # A port where nothing listens. HF_HUB_OFFLINE would stick: the hub's client reads it once, when it is imported.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("ROBUSTCTL_DEBUG", "ROBUSTCTL_QUIET", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models and images beside the project."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}")
    return path


@pytest.fixture
def linear_model() -> nn.Module:
    """A linear classifier of 1x4x4 images into 10 classes, the same in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 10)).eval()


@pytest.fixture
def conv_spec() -> ModelSpec:
    """The spec of ``conv_model``: a narrow kw-small for 1x8x8 images, 10 classes."""
    return ModelSpec(
        architecture=Architecture(name="kw-small", args={"width": 2, "hidden": 8}),
        input_shape=(1, 8, 8),
        n_classes=10,
        dataset="digits",
    )


@pytest.fixture
def conv_model(conv_spec: ModelSpec) -> Classifier:
    """A tiny convolutional classifier with fixed random weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(conv_spec).eval()


def _photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, image_format: str = "JPEG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder as ImageNet's: splits train (4 classes of 8) and val (of 3), sizes from 24 to 71, with its oddities."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    for split, n in (("train", 8), ("val", 3)):
        for label in range(4):
            directory = folder / split / f"n{label:08}"
            directory.mkdir(parents=True)
            for i in range(n):
                height, width = rng.integers(24, 72, 2).tolist()
                image = _photograph(height, width, seed=100 * label + i)
                image = image.convert({1: "CMYK", 2: "L"}.get(i, "RGB"))
                (directory / f"n{label:08}_{i}.JPEG").write_bytes(_encoded(image, "PNG" if i == 0 else "JPEG"))
    return folder
