"""The recipes for CLIPs train a tiny random CLIP on pixels of photographs, and leave its zero-shot head as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import robustctl
from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.spec import ModelSpec

pytest.importorskip("transformers", reason="CLIP is an extra")
datasets = pytest.importorskip("sklearn.datasets")

TINY = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "heads": 2, "projection": 16}
SPEC = ModelSpec.model_validate(
    {"architecture": {"name": "clip", "args": TINY}, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10"}
)
RAMP = ["method={name: ramp, pair: start, weight: 0.5}"]
SHORT = ["train.batch_size=8", "attack.steps=2", "selection.images=10", "selection.steps=1", "optim.lr=0.001"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 32x32 pixels cut out of a photograph, in ten classes by their column."""
    folder = tmp_path_factory.mktemp("tiles")
    pixels = datasets.load_sample_image("flower.jpg")
    for split, first in (("train", 0), ("test", 4)):
        for label in range(10):
            directory = folder / split / str(label)
            directory.mkdir(parents=True)
            for row in range(first, first + 4):
                tile = np.ascontiguousarray(pixels[32 * row : 32 * row + 32, 32 * label : 32 * label + 32])
                Image.fromarray(tile).save(directory / f"{row}.png")
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "clip").mkdir()
    checkpoint.save_model(build(SPEC), SPEC, tmp_path / "clip")
    return tmp_path / "clip"


@pytest.mark.parametrize(
    ("recipe", "changes", "terms"),
    [
        ("fare-union", [], {"embedding_distance/linf", "embedding_distance/l2", "embedding_distance/l1"}),
        ("tecoa-union", [], {"robust_error/linf", "robust_error/l1"}),
        ("tecoa-union", RAMP, {"robust_error/linf", "robust_error/l1", "pairing"}),
    ],
)
def test_a_clip_trains_on_real_pixels_and_keeps_its_head(
    recipe: str, changes: list[str], terms: set[str], clip: Path, tiles: Path, tmp_path: Path
) -> None:
    run = robustctl.finetune(
        clip, recipe, data=tiles, overrides=[*SHORT, *changes, "train.epochs=2"], out=tmp_path / "run"
    )
    assert run.read().status == "finished"
    before = checkpoint.read_tensors(clip / "model.safetensors")
    after = checkpoint.read_tensors(run.path / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("vision.") for name in moved)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    named = set().union(*lines)
    assert terms <= named if changes else terms & named  # without RAMP each batch meets one norm that is drawn
