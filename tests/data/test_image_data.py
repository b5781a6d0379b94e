import hashlib

import pytest
import torch

from robustctl.data import ImageData
from robustctl.errors import RequestError


@pytest.fixture
def images() -> ImageData:
    x = torch.arange(4 * 12, dtype=torch.uint8).view(4, 3, 2, 2) * 5
    return ImageData(x, torch.tensor([0, 1, 2, 1]), 3, "mine", "test", torch.arange(4))


def test_images_are_float_in_the_unit_interval_and_the_store_stays_uint8(images: ImageData) -> None:
    x = images.images([3, 0])
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, images.x[[3, 0]] / 255)
    assert images.x.dtype == torch.uint8


def test_changing_what_was_handed_out_does_not_change_the_data(images: ImageData) -> None:
    for data in (images, ImageData(images.x / 255, images.y, 3, "mine", "test", images.indices)):
        before = data.x.clone()
        data.images([0, 1]).zero_()
        assert torch.equal(data.x, before)


def test_a_selection_keeps_its_indices(images: ImageData) -> None:
    chosen = images.select([2, 3]).select([1])
    assert len(chosen) == 1
    assert chosen.indices.tolist() == [3]
    assert torch.equal(chosen.x[0], images.x[3])


def test_the_index_hash_tells_images_order_and_split_apart(images: ImageData) -> None:
    hashes = {images.select(positions).index_sha256 for positions in ([0, 1], [1, 0], [0, 2], [0])}
    train = ImageData(images.x, images.y, 3, "mine", "train", images.indices)
    assert len(hashes | {train.index_sha256, images.index_sha256}) == 6


def test_the_content_hash_tells_pixels_and_labels_apart(images: ImageData) -> None:
    x = images.x.clone()
    x[0, 0, 0, 0] += 1
    pixels = ImageData(x, images.y, 3, "mine", "test", images.indices)
    labels = ImageData(images.x, images.y.flip(0), 3, "mine", "test", images.indices)
    assert len({data.content_sha256 for data in (images, pixels, labels)}) == 3
    assert ImageData(images.x.clone(), images.y, 3, "moved", "test", images.indices).content_sha256 == (
        images.content_sha256
    )


def test_the_same_images_in_8_bits_and_in_floats_have_one_hash(images: ImageData) -> None:
    floats = ImageData(images.x / 255, images.y, 3, "mine", "test", images.indices)
    assert floats.content_sha256 == images.content_sha256 == images.info.content_sha256
    finer = ImageData(floats.x.clone(), images.y, 3, "mine", "test", images.indices)
    finer.x[3, 0, 0, 0] += 1e-6
    assert finer.content_sha256 != images.content_sha256


def test_a_hash_that_an_older_run_took_of_floats_is_known(images: ImageData) -> None:
    floats = ImageData(images.x / 255, images.y, 3, "mine", "test", images.indices)
    digest = hashlib.sha256(b"torch.float32 [4, 3, 2, 2]\n" + floats.x.numpy().tobytes() + images.y.numpy().tobytes())
    assert floats.has_content(digest.hexdigest()) and floats.has_content(images.content_sha256)
    assert not images.has_content(digest.hexdigest())


def test_fitting_images_pass(images: ImageData) -> None:
    images.require((3, 2, 2), 3)


def test_images_of_another_shape_are_refused(images: ImageData) -> None:
    with pytest.raises(RequestError, match=r"images of mine \(test\) are 3x2x2, the model takes 1x2x2"):
        images.require((1, 2, 2), 3)


def test_a_label_outside_the_models_classes_is_named_with_its_index(images: ImageData) -> None:
    with pytest.raises(RequestError, match=r"image 2 of mine \(test\) has label 2, outside the model's classes 0\.\.1"):
        images.select([1, 2]).require((3, 2, 2), 2)
