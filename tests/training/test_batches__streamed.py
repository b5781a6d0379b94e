"""Batches of images that stay on the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.data import EncodedData, ImageData
from robustctl.errors import RunError
from robustctl.recipe.schema import Augment
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.batches import Batches, Images, Streamed, hold_out

SPEC = ModelSpec(
    architecture=Architecture(name="resnet", args={"depth": 18}),
    input_shape=(3, 32, 32),
    n_classes=4,
    dataset="imagenet",
)
PHOTOGRAPHS = Augment(resized_crop=0.08, flip=True)


def streamed(folder: Path, augment: Augment = PHOTOGRAPHS, workers: int = 2, spec: ModelSpec = SPEC) -> Batches:
    images = data.load_to_train(str(folder), "train", any_size=True, side=spec.input_shape[-1])
    assert isinstance(images, EncodedData)
    return Batches(Streamed(images, spec), augment, 0, 4, workers=workers)


@pytest.fixture
def equal(tmp_path: Path) -> Path:
    """Twelve images of 32x32."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "equal" / "train" / str(i % 4) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "equal"


@pytest.mark.parametrize("augment", [Augment(), Augment(crop=3, flip=True, cutout=5), Augment(flip=True, mixup=1.0)])
def test_images_of_the_models_size_give_the_same_batches_as_in_memory(equal: Path, augment: Augment) -> None:
    lazy = data.load_to_train(str(equal), "train", any_size=False, limit=1)
    eager = data.load_to_train(str(equal), "train", any_size=False)
    assert isinstance(lazy, EncodedData) and isinstance(eager, ImageData)
    one = Batches(Streamed(lazy, SPEC), augment, 0, 4, workers=2)
    other = Batches(Images(eager.x, eager.y), augment, 0, 4)
    for epoch, number, size in [(0, 0, 32), (0, 2, 32), (1, 1, 16)]:
        for a, b in zip(one.get(epoch, number, 4, size), other.get(epoch, number, 4, size), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("augment", [PHOTOGRAPHS, Augment(), Augment(resized_crop=0.5, cutout=3, mixup=1.0)])
def test_batch_is_a_function_of_seed_pass_and_number(photographs: Path, augment: Augment) -> None:
    one, other = streamed(photographs, augment), streamed(photographs, augment, workers=0)
    for epoch, number, size in [(0, 1, 32), (0, 2, 32), (1, 0, 24), (0, 1, 32)]:
        x, y = one.get(epoch, number, 8, size)
        assert x.shape == (8, 3, size, size) and x.min() >= 0 and x.max() <= 1
        for a, b in zip((x, y), other.get(epoch, number, 8, size), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.get(0, 1, 8, 32)[0], one.get(2, 1, 8, 32)[0])


@pytest.mark.parametrize("augment", [PHOTOGRAPHS, Augment(flip=True, cutout=5), Augment(resized_crop=0.5, mixup=1.0)])
def test_parts_of_a_batch_are_its_rows_and_only_they_are_decoded(photographs: Path, augment: Augment) -> None:
    whole = streamed(photographs, augment).get(0, 1, 8, 32)
    for rows in (slice(0, 4), slice(4, 8)):
        batches = streamed(photographs, augment)
        opened: list[int] = []
        image = batches.data.data.image
        object.__setattr__(
            batches.data.data, "image", lambda i, c, image=image, seen=opened: (seen.append(i), image(i, c))[1]
        )
        part = batches._make(0, 1, 8, 32, (rows.start, rows.stop))
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a, b[rows])
        assert len(opened) == (8 if augment.mixup else 4)


def test_a_phase_of_another_size_is_decoded_straight_to_it(photographs: Path) -> None:
    big = SPEC.model_copy(update={"input_shape": (3, 64, 64)})
    x, _ = streamed(photographs, Augment(), spec=big).get(0, 0, 8, 16)
    small = SPEC.model_copy(update={"input_shape": (3, 16, 16)})
    y, _ = streamed(photographs, Augment(), spec=small).get(0, 0, 8, 16)
    assert torch.equal(x, y), "the shorter side to 18, not to 73 and then down from 64"


def test_a_pass_shows_every_image_once(photographs: Path) -> None:
    batches = streamed(photographs, Augment())
    seen = torch.cat([batches.get(0, number, 8, 32)[0] for number in range(4)]).flatten(1)
    assert len(torch.unique(seen, dim=0)) == 32


def test_a_damaged_image_stops_the_training_by_its_name(photographs: Path) -> None:
    batches = streamed(photographs)
    for path in sorted((photographs / "train" / "n00000002").iterdir()):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"cannot decode .*n00000002_\d.JPEG: .*put a sound file in its place.*--resume"):
        for number in range(4):
            batches.get(0, number, 8, 32)


def test_what_is_held_out_is_not_trained_on(photographs: Path) -> None:
    images = data.load_to_train(str(photographs), "train", any_size=True, side=32)
    train, held = hold_out(images, 6)
    assert isinstance(train, EncodedData) and isinstance(held, EncodedData)
    assert sorted(train.indices.tolist() + held.indices.tolist()) == list(range(32)) and len(held) == 6
    fitted = held.decoded(SPEC.input_shape, SPEC.resizing)
    assert fitted.x.shape == (6, 3, 32, 32) and torch.equal(fitted.indices, held.indices)


def test_random_crops_of_images_in_memory_are_those_on_the_disk_but_for_rounding(equal: Path) -> None:
    lazy = data.load_to_train(str(equal), "train", any_size=False, limit=1)
    eager = data.load_to_train(str(equal), "train", any_size=False)
    assert isinstance(lazy, EncodedData) and isinstance(eager, ImageData)
    x, _ = Batches(Streamed(lazy, SPEC), PHOTOGRAPHS, 0, 4).get(0, 0, 4, 24)
    y, _ = Batches(Images(eager.x, eager.y), PHOTOGRAPHS, 0, 4).get(0, 0, 4, 24)
    assert x.shape == y.shape == (4, 3, 24, 24) and (x - y).abs().max() <= 1.01 / 255
