"""Of ``robustctl/data/__init__.py``."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.data import EncodedData, ImageData
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec, Resize


def test_digits_are_known_by_name_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    images = data.load("digits", "test", 5)
    assert (len(images), images.source, images.split, images.indices.tolist()) == (5, "digits", "test", [0, 1, 2, 3, 4])


def test_an_npz_file_has_the_split_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1, 2, 2), np.uint8), y=np.array([0, 1]))
    assert data.load(str(tmp_path / "a.npz"), "test").split == "all"


def test_a_folder_of_class_folders_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "test" / "ant" / "0.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    assert len(data.load(str(tmp_path), "test")) == 1


def test_a_parquet_folder_is_found_out(shared: Path) -> None:
    images = data.load(str(shared / "data" / "mnist-part"), "test", 3)
    assert (images.x.shape, images.n_classes) == ((3, 1, 28, 28), 10)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "user/name"])
def test_an_unknown_source_is_answered_with_what_would_be_right(source: str) -> None:
    with pytest.raises(RequestError, match=rf"no data at '{source}'; give digits, a folder, an \.npz"):
        data.load(source, "test")


def spec(dataset: str, side: int = 32, resize: Resize | None = None) -> ModelSpec:
    resnet = Architecture(name="resnet", args={"depth": 18})
    return ModelSpec(
        architecture=resnet, input_shape=(3, side, side), n_classes=4, dataset=dataset, norm=None, resize=resize
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six colour images of 20x20."""
    for split in ("train", "test"):
        for i in range(6):
            path = tmp_path / "small" / split / str(i % 2) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(path)
    return tmp_path / "small"


def test_imagenet_models_take_images_of_any_size(photographs: Path) -> None:
    images = data.load(str(photographs), "val", 5, spec("imagenet"))
    assert images.x.shape == (5, 3, 32, 32) and images.y.tolist() == [0, 1, 2, 3, 0]
    assert images.preprocessing == images.info.preprocessing == "shorter side to 37 (bilinear), centre 32x32"
    assert data.load(str(photographs), "val", 5, spec("imagenet")).content_sha256 == images.content_sha256


def test_an_entrys_own_resizing_counts_and_gives_other_images(photographs: Path) -> None:
    own = spec("mine", resize=Resize(side=32, interpolation="bicubic"))
    images = data.load(str(photographs), "val", None, own)
    assert images.preprocessing == "shorter side to 32 (bicubic), centre 32x32"
    assert images.content_sha256 != data.load(str(photographs), "val", None, spec("imagenet")).content_sha256


def test_only_the_first_n_are_decoded(photographs: Path) -> None:
    for path in (photographs / "val" / "n00000003").iterdir():
        path.write_bytes(b"damaged")
    assert len(data.load(str(photographs), "val", 3, spec("imagenet"))) == 3
    with pytest.raises(RequestError, match="cannot decode .*n00000003"):
        data.load(str(photographs), "val", 4, spec("imagenet"))
    with pytest.raises(RequestError, match="n is 13, but .* has 12 images"):
        data.load(str(photographs), "val", 13, spec("imagenet"))


def test_other_models_do_not_resize(small: Path, photographs: Path) -> None:
    images = data.load(str(small), "test", 4, spec("cifar10"))
    assert torch.equal(images.x, data.load(str(small), "test", 4).x)
    with pytest.raises(RequestError, match="are 3x20x20, the model takes 3x32x32"):
        images.require((3, 32, 32), 4)
    with pytest.raises(RequestError, match="sizes must be equal"):
        data.load(str(photographs), "val", None, spec("cifar10"))


def test_images_of_an_imagenet_models_size_are_as_they_are(small: Path) -> None:
    plain, fitted = data.load(str(small), "test"), data.load(str(small), "test", None, spec("imagenet", side=20))
    assert fitted.content_sha256 == plain.content_sha256 and fitted.preprocessing is None


def test_training_images_of_one_size_are_in_memory(small: Path) -> None:
    for any_size, side in [(False, None), (False, 20), (False, 32), (True, None), (True, 20)]:
        images = data.load_to_train(str(small), "train", any_size=any_size, side=side)
        assert isinstance(images, ImageData) and torch.equal(images.x, data.load(str(small), "train").x)


def test_training_images_of_several_or_other_sizes_stay_encoded(small: Path, photographs: Path) -> None:
    for source, side in [(photographs, None), (photographs, 32), (small, 32)]:
        images = data.load_to_train(str(source), "train", any_size=True, side=side)
        assert isinstance(images, EncodedData) and images.any_size
    with pytest.raises(RequestError, match="sizes must be equal"):
        data.load_to_train(str(photographs), "train", any_size=False)


def test_training_images_that_are_too_many_stay_encoded_whatever_their_size(small: Path) -> None:
    images = data.load_to_train(str(small), "train", any_size=False, limit=6 * 3 * 20 * 20 - 1)
    assert isinstance(images, EncodedData) and not images.any_size and images.shape == (3, 20, 20)
    assert isinstance(data.load_to_train(str(small), "train", any_size=False, limit=6 * 3 * 20 * 20), ImageData)


def test_grey_images_have_as_many_channels_as_the_model_takes(tmp_path: Path) -> None:
    level = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    for name, image in (("a", Image.fromarray(level)), ("b", Image.fromarray(level).convert("RGB"))):
        (tmp_path / "test" / name).mkdir(parents=True)
        image.save(tmp_path / "test" / name / "0.webp", lossless=True)
    two = {"n_classes": 2}
    grey = spec("mine").model_copy(update={"input_shape": (1, 32, 32), **two})
    images = data.load(str(tmp_path), "test", None, grey)
    assert torch.equal(images.x, torch.from_numpy(level).expand(2, 1, 32, 32))
    colour = data.load(str(tmp_path), "test", 1, spec("mine").model_copy(update=two))
    assert torch.equal(colour.x, torch.from_numpy(level).expand(1, 3, 32, 32))
    trained = data.load_to_train(str(tmp_path), "test", any_size=False, spec=grey)
    assert isinstance(trained, ImageData) and trained.content_sha256 == images.content_sha256
    lazy = data.load_to_train(str(tmp_path), "test", any_size=False, spec=grey, limit=1)
    assert isinstance(lazy, EncodedData) and torch.equal(lazy.decoded((1, 32, 32), None).x, images.x)


def test_every_layout_of_the_same_images_has_one_hash(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    y = np.array([0, 1, 2])
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "floats.npz", x=(x / np.float32(255)).astype(np.float32), y=y)
    np.savez(tmp_path / "last.npz", image=x.transpose(0, 2, 3, 1), label=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", y.astype(np.int32))
    encoded = []
    for i, image in enumerate(x):
        path = tmp_path / "folder" / "test" / str(i) / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
        encoded.append(path.read_bytes())
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"img": encoded, "label": ["ant", "bee", "cat"]}), tmp_path / "table" / "test.parquet")
    sources = ["a.npz", "floats.npz", "last.npz", "x.npy", "folder", "table", "table/test.parquet", "./folder/"]
    hashes = {source: data.load(f"{tmp_path}/{source}", "test").content_sha256 for source in sources}
    assert len(set(hashes.values())) == 1, hashes


def test_an_empty_split_is_no_training_data(small: Path) -> None:
    (small / "none" / "0").mkdir(parents=True)
    with pytest.raises(RequestError, match="has no images"):
        data.load_to_train(str(small), "none", any_size=True)


def test_digits_and_arrays_are_in_memory() -> None:
    assert len(data.load_to_train("digits", "train", any_size=True)) == 1297
