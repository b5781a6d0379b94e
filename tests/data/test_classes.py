from pathlib import Path

import pytest
import torch

from robustctl.data import ImageData, classes
from robustctl.data.classes import matched
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec


def spec(n_classes: int, names: tuple[str, ...] | None = None, dataset: str = "mine") -> ModelSpec:
    kw = Architecture(name="kw-small")
    return ModelSpec(architecture=kw, input_shape=(1, 8, 8), n_classes=n_classes, classes=names, dataset=dataset)


def images(*names: str, numbered: bool = False) -> ImageData:
    """One image of each class, in order."""
    n = len(names)
    x = torch.zeros(n, 1, 8, 8)
    return ImageData(x, torch.arange(n), n, "d", "test", torch.arange(n), class_names=names, numbered=numbered)


PETS = ("bird", "cat", "dog", "fish")


@pytest.mark.parametrize(
    ("data", "model", "expected"),
    [
        (images("cat", "fish"), spec(4, PETS), [1, 3]),
        (images("Fish", "CAT"), spec(4, PETS), [3, 1]),
        (images("dog", "fish", "bird", "cat", numbered=True), spec(4, PETS), [2, 3, 0, 1]),
        (images("maple_tree", "Oak Tree"), spec(3, ("oak-tree", "maple tree", "fir")), [1, 0]),
        (images("ship", "truck"), spec(10, dataset="cifar10"), [8, 9]),
        (images("sunflower", "apple"), spec(100, dataset="cifar100"), [82, 0]),
        (images("3", "7"), spec(10), [3, 7]),
        (images("3", "7"), spec(10, dataset="digits"), [3, 7]),
        (images("1", "3"), spec(4, PETS), [1, 3]),
        (images("a", "b", "c", "d"), spec(4), [0, 1, 2, 3]),
        (images("1", "2", "3"), spec(3), [0, 1, 2]),
        (images("class-0", "class-1", "class-2", "class-3"), spec(4, PETS), [0, 1, 2, 3]),
        (images("class-0", "class-1", "class-10", *(f"class-{i}" for i in range(2, 10))), spec(11), None),
        (images("plane", "car", numbered=True), spec(2, ("airplane", "automobile")), [0, 1]),
        (images("plane", "automobile", numbered=True), spec(2, ("airplane", "automobile")), [0, 1]),
    ],
)
def test_labels_become_the_models_own(data: ImageData, model: ModelSpec, expected: list[int] | None) -> None:
    found = matched(data, model)
    assert found.y.tolist() == (expected or [0, 1, 10, *range(2, 10)])
    assert found.n_classes == model.n_classes and found.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("data", "model", "words"),
    [
        (
            images("cat", "dog"),
            spec(4),
            "has 2 classes .cat, dog., the model 4; the names of its",
        ),
        (images("digit-0", "digit-1"), spec(10, dataset="digits"), "has 2 classes .* the model 10"),
        (images("a", "b", "c", "d"), spec(4, PETS), "none of the model's: a, b, c, d.*The model's are bird, cat"),
        (images("brd", "cat", "dog", "fish"), spec(4, PETS), "none of the model's: brd. Did you mean 'bird'"),
        (images("9", "10"), spec(10), "has 2 classes"),
        (images("c1", "c10", "c2"), spec(3), "by name or by number"),
        (images("auto", "airplane", numbered=True), spec(2, ("airplane", "automobile")), "none of the model's: auto"),
        (images("a", "b", "c", numbered=True), spec(4), "has 3 classes"),
    ],
)
def test_what_cannot_be_told_is_refused_and_never_renumbered(data: ImageData, model: ModelSpec, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        matched(data, model)
    assert "--classes" in str(caught.value)


def test_classes_taken_by_their_order_are_said_to_be() -> None:
    assert "in the order of their names: a = 0, b = 1" in matched(images("a", "b"), spec(2)).notes[0]
    assert matched(images("a", "b"), spec(2)).class_names == ("a", "b")


def test_labels_without_names_stay_as_they_are() -> None:
    data = ImageData(torch.zeros(2, 1, 8, 8), torch.tensor([1, 0]), 2, "d", "all", torch.arange(2))
    assert matched(data, spec(10)) is data


def test_a_mapping_may_name_or_number_either_side() -> None:
    mapping = {"kitty": "cat", "puppy": 2}
    assert matched(images("kitty", "puppy"), spec(4, PETS), mapping).y.tolist() == [1, 2]
    data = ImageData(torch.zeros(3, 1, 8, 8), torch.tensor([1, 0, 1]), 2, "d", "all", torch.arange(3))
    assert matched(data, spec(4, PETS), {0: "fish", 1: "dog"}).y.tolist() == [2, 3, 2]  # type: ignore[dict-item]
    assert matched(images("kitty", "lion"), spec(4, PETS), {"kitty": 1, "lion": "Cat"}).y.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"kitty": "cat"}, "--classes says nothing of puppy"),
        ({"kitty": "cat", "pupy": "dog"}, "has no class 'pupy'. Did you mean 'puppy'"),
        ({"kitty": "cow", "puppy": "dog"}, "the model has no class 'cow'; its classes: bird"),
        ({"kitty": 4, "puppy": "dog"}, "the model has no class 4"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping: dict[str, str | int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        matched(images("kitty", "puppy"), spec(4, PETS), mapping)


def test_long_lists_of_classes_are_cut() -> None:
    names = [f"class {chr(97 + i)}" for i in range(classes.SHOWN + 1)]
    with pytest.raises(RequestError, match=r"\.\.\. \(13 in all\)"):
        matched(images(*names), spec(20))


def test_six_of_ten_class_folders_keep_the_models_numbers(tmp_path: Path) -> None:
    from PIL import Image

    from robustctl import data

    for name in ("horse", "ship", "cat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (90, 90, 90)).save(tmp_path / "test" / name / "0.png")
    model = ModelSpec(
        architecture=Architecture(name="kw-small"), input_shape=(3, 4, 4), n_classes=10, dataset="cifar10"
    )
    assert data.load(str(tmp_path), "test", None, model).y.tolist() == [3, 7, 8]
