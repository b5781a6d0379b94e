from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from robustctl import data
from robustctl.errors import RequestError
from robustctl.workflows.given_images import from_dataset, from_tensors


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        return self.items[position]


def test_tensors_arrays_and_data_sets_of_the_same_images_are_the_same_data() -> None:
    few = data.load("digits", "test", 6)
    x = few.images(range(6))
    from_floats = from_tensors(x, few.y)
    from_doubles = from_tensors(x.double().numpy(), few.y.numpy().astype(np.int32))
    read = from_dataset(Items(list(zip(x, few.y, strict=True))))
    assert from_floats.content_sha256 == from_doubles.content_sha256 == read.content_sha256
    assert from_floats.index_sha256 == read.index_sha256


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_pil_images_have_one_or_three_channels_and_keep_their_pixels(mode: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    image = Image.fromarray(grey if mode == "L" else np.stack([grey] * 3, axis=2)).convert(mode)
    read = from_dataset(Items([(image, 1), (image, 0)]))
    assert read.shape == (1 if mode == "L" else 3, 5, 7)
    if mode in ("L", "RGB"):
        assert np.array_equal(read.x[0, 0].numpy(), grey)


def test_the_first_n_are_taken() -> None:
    x, y = torch.rand(4, 1, 2, 2), torch.arange(4)
    assert (
        from_tensors(x, y, 3).y.tolist() == from_dataset(Items(list(zip(x, y, strict=True))), 3).y.tolist() == [0, 1, 2]
    )
    with pytest.raises(RequestError, match="has 4 images"):
        from_tensors(x, y, 5)


IMAGE = torch.zeros(1, 2, 2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4), [0, 1], "channels, height, width"),
        (torch.zeros(2, 1, 2, 2), [0], "give 2 whole numbers"),
        (torch.zeros(2, 1, 2, 2), [0.0, 1.0], "whole numbers"),
        (torch.zeros(2, 1, 2, 2), [0, -1], "negative"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.int64), [0, 1], "uint8, or floats"),
        (torch.zeros(0, 1, 2, 2), [], "."),
        ("cat.png", [0], "."),
    ],
)
def test_unfit_tensors_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_tensors(images, labels)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "has no images"),
        ([IMAGE], "the pair"),
        ([(IMAGE, "cat")], "label of item 0 is 'cat'"),
        ([(np.zeros((2, 2)), 0)], "no tensor"),
        ([(IMAGE, 0), (torch.zeros(1, 3, 2), 0)], "item 1 is"),
        ([{"img": IMAGE, "label": 0}], "item 0 is a dict"),
    ],
)
def test_unfit_items_are_refused_by_their_number(items: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_dataset(Items(items))


def test_a_data_set_without_length_is_refused() -> None:
    with pytest.raises(RequestError, match="no length"):
        from_dataset(iter([]))  # type: ignore[arg-type]


def test_names_of_the_classes_come_along() -> None:
    items = Items([(torch.rand(1, 2, 2), 1)])
    items.classes = ["ant", "bee", "cat"]  # type: ignore[attr-defined]
    read = from_dataset(items)
    assert (read.class_names, read.n_classes) == (("ant", "bee", "cat"), 3)
