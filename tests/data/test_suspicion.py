from pathlib import Path

import pytest
import torch

from robustctl import data
from robustctl.data import ImageData
from robustctl.data.suspicion import suspicions


def images(x: torch.Tensor) -> ImageData:
    return ImageData(x, torch.zeros(len(x), dtype=torch.int64), 10, "d", "test", torch.arange(len(x)))


DIGITS = data.load("digits", "test", 60)


def seen(x: torch.Tensor, dataset: str = "digits") -> list[tuple[str, bool]]:
    return [(one.text, one.certain) for one in suspicions(images(x), dataset)]


@pytest.mark.parametrize(
    ("x", "words", "certain"),
    [
        (DIGITS.x / 255, "divided by 255 twice", True),
        (DIGITS.x.to(torch.uint8), "floats in [0,1] that were cut to whole numbers", True),
        (torch.zeros(5, 1, 8, 8), "all pixels are 0: the images are empty", True),
        (DIGITS.x.round(), "every pixel is 0 or 1: they were rounded or binarised", False),
        ((DIGITS.x * 16).to(torch.uint8), "may have been scaled down twice", False),
        (1 - DIGITS.x, "they are inverted", False),
        (DIGITS.x / 2, "mean brightness is 0.15", False),
    ],
)
def test_pixels_that_are_not_what_they_seem_are_seen(x: torch.Tensor, words: str, certain: bool) -> None:
    ((text, is_certain),) = seen(x)
    assert words in text and is_certain == certain


def test_images_as_they_are_raise_no_suspicion(shared: Path) -> None:
    assert seen(DIGITS.x) == []
    for n in (2, 5, 10, 100):
        assert suspicions(data.load("digits", "train", n), "digits") == []
        assert suspicions(data.load(str(shared / "data/cifar10-jpeg"), "test", n), "cifar10") == []
        assert suspicions(data.load(str(shared / "data/mnist-part"), "test", n), "mnist") == []


def test_one_image_and_unknown_data_sets_are_not_judged_by_brightness() -> None:
    assert seen(DIGITS.x[:1] * 0.5) == [] and seen(DIGITS.x * 0.5, "mine") == []


@pytest.mark.parametrize("name", ["twice-scaled", "uint8-of-floats"])
def test_the_reference_cases_are_certain(shared: Path, name: str) -> None:
    path = shared / "cases/data" / f"{name}.npz"
    if not path.is_file():
        pytest.skip("no cases")
    assert suspicions(data.load(str(path), "test"), "digits")[0].certain
