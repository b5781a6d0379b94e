import pytest
import torch

from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.recipe.schema import Augment
from robustctl.training.batches import Batches, Images, hold_out


def images(n: int) -> Images:
    return Images(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 8, 8).clone(), torch.arange(n) % 10)


def test_one_pass_shows_every_image_once_and_the_next_in_another_order() -> None:
    batches = Batches(images(40), Augment(), seed=0, n_classes=10)
    passes = [torch.cat([batches.get(epoch, i, 8)[0][:, 0, 0, 0] for i in range(5)]) * 255 for epoch in (0, 1)]
    for seen in passes:
        assert sorted(seen.round().int().tolist()) == list(range(40))
    assert not torch.equal(*passes)


def test_batch_is_a_function_of_seed_pass_and_number() -> None:
    augment = Augment(crop=2, flip=True, cutout=3, mixup=1.0)
    one, other = (Batches(images(40), augment, seed=3, n_classes=10) for _ in range(2))
    other.get(0, 4, 8)  # what was asked before does not matter
    for a, b in zip(one.get(1, 2, 8), other.get(1, 2, 8), strict=True):
        assert torch.equal(a, b)


def test_workers_prepare_the_same_batches() -> None:
    augment = Augment(crop=2, flip=True, cutout=3)
    resident, streamed = (Batches(images(40), augment, 0, 10, workers=workers) for workers in (0, 2))
    for epoch, number in [(0, 0), (0, 1), (0, 4), (1, 0), (0, 2)]:
        for a, b in zip(resident.get(epoch, number, 8), streamed.get(epoch, number, 8), strict=True):
            assert torch.equal(a, b)


def test_extra_images_fill_their_share_of_every_batch() -> None:
    extra = Images(torch.full((7, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64))
    batches = Batches(images(40), Augment(), 0, 10, extra, 0.5)
    assert batches.count(8) == 10, "a pass ends when the standard images have been used once"
    for i in range(10):
        x, _ = batches.get(0, i, 8)
        assert len(x) == 8 and int((x[:, 0, 0, 0] == 1.0).sum()) == 4


def test_resized_batch_has_the_phases_size() -> None:
    x, _ = Batches(images(8), Augment(), 0, 10).get(0, 0, 8, 4)
    assert x.shape == (8, 1, 4, 4)


def test_batch_larger_than_the_data_is_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"train\.batch_size"):
        Batches(images(4), Augment(), 0, 10).count(8)


def test_selection_split_is_disjoint_and_the_same_every_time() -> None:
    data = ImageData(torch.zeros(50, 1, 2, 2), torch.zeros(50, dtype=torch.int64), 10, "s", "train", torch.arange(50))
    train, held = hold_out(data, 20)
    assert sorted(train.indices.tolist() + held.indices.tolist()) == list(range(50)) and len(held) == 20
    assert torch.equal(held.indices, hold_out(data, 20)[1].indices)
    with pytest.raises(RequestError, match=r"selection\.images"):
        hold_out(data, 25)
