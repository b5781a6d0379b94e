"""A loop over photographs that stay on the disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl import checkpoint, data
from robustctl.architectures import build
from robustctl.data import EncodedData, ImageData
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec, Resize
from robustctl.training.batches import Images, Streamed
from robustctl.training.build import build_parts, input_shape, resizing_spec
from robustctl.training.loop import Loop

SPEC = ModelSpec(
    architecture=Architecture(name="wide-resnet", args={"depth": 10, "width": 1}),
    input_shape=(3, 32, 32),
    n_classes=4,
    dataset="imagenet",
)


@pytest.fixture
def images(photographs: Path) -> EncodedData:
    found = data.load_to_train(str(photographs), "train", any_size=True)
    assert isinstance(found, EncodedData)
    return found


def loop_over(
    images: EncodedData | ImageData, settings_for: Any, directory: Path, *, resuming: bool = False, **changes: Any
) -> Loop:
    directory.mkdir(exist_ok=True)
    torch.manual_seed(0)
    settings = settings_for({"name": "fgsm", "start": "uniform", "step": 1.25}, **changes)
    cpu = torch.device("cpu")
    loop = Loop(build_parts(build(SPEC), SPEC, images, settings, seed=0, device=cpu), directory)
    if resuming:
        loop.resume()
    return loop


def test_training_is_streamed_and_selection_is_in_memory(
    images: EncodedData, settings_for: Any, tmp_path: Path
) -> None:
    loop = loop_over(images, settings_for, tmp_path / "run", augment={"resized_crop": 0.2, "flip": True})
    assert isinstance(loop.parts.batches.data, Streamed) and len(loop.parts.batches.data.y) == 24
    assert isinstance(loop.parts.selector.images, Images) and loop.parts.selector.images.x.shape == (8, 3, 32, 32)
    loop.run()
    checkpoint.load_model(tmp_path / "run")


@pytest.mark.parametrize("augment", [{"resized_crop": 0.2, "flip": True}, {"flip": True, "mixup": 1.0}])
def test_a_stopped_run_resumes_bit_for_bit(
    images: EncodedData, augment: dict[str, Any], settings_for: Any, tmp_path: Path
) -> None:
    loop_over(images, settings_for, tmp_path / "whole", augment=augment).run()
    loop_over(images, settings_for, tmp_path / "parts", augment=augment).run(max_steps=2)
    loop_over(images, settings_for, tmp_path / "parts", augment=augment, resuming=True).run()
    one, other = (checkpoint.read_tensors(tmp_path / part / "model.safetensors") for part in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_image_that_is_held_out_is_found_before_anything_starts(
    images: EncodedData, photographs: Path, settings_for: Any, tmp_path: Path
) -> None:
    for path in (photographs / "train").glob("*/*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match="cannot decode"):
        loop_over(images, settings_for, tmp_path / "run")


def test_a_new_network_takes_the_last_phases_size_else_224(images: EncodedData, settings_for: Any) -> None:
    phases = [{"at": 0, "size": 16, "batch_size": 8}, {"at": 1, "size": 48, "batch_size": 8}]
    assert input_shape(images, settings_for({"name": "at"})) == (3, 224, 224)
    assert input_shape(images, settings_for({"name": "at"}, resize=phases)) == (3, 48, 48)
    one_size = ImageData(torch.zeros(2, 3, 20, 20), torch.zeros(2, dtype=torch.int64), 4, "s", "train", torch.arange(2))
    assert input_shape(one_size, settings_for({"name": "at"}, resize=phases)) == (3, 20, 20)


def test_the_spec_says_how_images_of_several_sizes_are_resized(images: EncodedData) -> None:
    mine = SPEC.model_copy(update={"dataset": "mine"})
    assert resizing_spec(mine, images).resize == resizing_spec(SPEC, images).resize == Resize.usual(32)
    own = mine.model_copy(update={"resize": Resize(side=32, interpolation="bicubic")})
    assert resizing_spec(own, images).resize == own.resize
    one_size = ImageData(torch.zeros(2, 3, 32, 32), images.y[:2], 4, "s", "train", torch.arange(2))
    assert resizing_spec(mine, one_size).resize is None
