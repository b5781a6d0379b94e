from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustctl.data.folder import read
from robustctl.errors import RequestError


def _image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), level, dtype=np.uint8)).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for split, base in (("train", 0), ("test", 100)):
        for label, name in enumerate(["ant", "bee", "cat"]):
            for i in range(3):
                _image(tmp_path / split / name / f"{i}.png", base + 10 * label + i)
    return tmp_path


def test_every_class_is_among_the_first_images(animals: Path) -> None:
    x, y, n_classes = read(animals, "test", 4)
    assert y.tolist() == [0, 1, 2, 0]
    assert x[:, 0, 0, 0].tolist() == [100, 110, 120, 101]
    assert n_classes == 3


def test_a_class_that_a_split_lacks_does_not_shift_the_others(animals: Path) -> None:
    for path in (animals / "test" / "ant").iterdir():
        path.unlink()
    (animals / "test" / "ant").rmdir()
    _, y, n_classes = read(animals, "test", None)
    assert (y.tolist(), n_classes) == ([1, 2] * 3, 3)


def test_whole_numbers_as_names_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    for label in range(11):
        _image(tmp_path / "test" / str(label) / "a.png", label)
    x, y, _ = read(tmp_path, "test", None)
    assert y.tolist() == x[:, 0, 0, 0].tolist() == list(range(11))


def test_hidden_files_and_other_suffixes_are_no_images(animals: Path) -> None:
    (animals / ".cache").mkdir()
    (animals / "test" / "ant" / "notes.txt").write_text("hello")
    assert len(read(animals, "test", None)[1]) == 9


def test_an_unknown_split_is_answered_with_the_splits(animals: Path) -> None:
    with pytest.raises(RequestError, match=r"no split 'val'; its splits: test, train\. Expected .*<split>/<class>"):
        read(animals, "val", None)


def test_an_empty_folder_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="its splits: none"):
        read(tmp_path, "test", None)


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test" / "ant").mkdir(parents=True)
    with pytest.raises(RequestError, match="has no images"):
        read(tmp_path, "test", None)


def test_a_damaged_image_is_named_by_its_path(animals: Path) -> None:
    path = animals / "test" / "bee" / "0.png"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(RequestError, match=f"cannot decode {path}"):
        read(animals, "test", None)


def test_more_images_than_there_are_is_an_error(animals: Path) -> None:
    with pytest.raises(RequestError, match="n is 10.*has 9 images"):
        read(animals, "test", 10)
