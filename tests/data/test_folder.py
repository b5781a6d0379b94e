from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from robustctl import data
from robustctl.errors import RequestError


def read(folder: Path, split: str, n: int | None) -> tuple[Tensor, Tensor, int]:
    images = data.load(str(folder), split, n)
    return images.x, images.y, images.n_classes


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


def test_hidden_files_and_other_suffixes_are_left_out_and_said_to_be(animals: Path) -> None:
    (animals / ".cache").mkdir()
    (animals / "test" / "ant" / "notes.txt").write_text("hello")
    (animals / "test" / "ant" / "._0.png").write_bytes(b"resource fork")
    (animals / "test" / ".DS_Store").write_bytes(b"")
    (animals / "test" / "0.png").write_bytes(b"")
    (animals / "test" / "bee" / "more").mkdir()
    images = data.load(str(animals), "test")
    assert len(images) == 9
    (note,) = images.notes
    assert note.startswith(f"5 files are left out of {animals / 'test'}: ")
    for part in ("2 hidden (as .DS_Store)", "1 of no known image format (as notes.txt)", "in no folder of a class"):
        assert part in note
    assert data.load(str(animals), "train").notes == ()


@pytest.mark.parametrize("suffix", ["webp", "bmp", "gif", "tiff", "ppm", "JPG", "png"])
def test_every_format_that_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    _image(tmp_path / "test" / "ant" / "0.png", 7)
    _image(tmp_path / "test" / "bee" / f"0.{suffix}", 200)
    assert len(read(tmp_path, "test", None)[1]) == 2


def test_an_unknown_split_is_answered_with_the_splits(animals: Path) -> None:
    with pytest.raises(RequestError, match=r"no split 'val'; its splits: test, train\. Expected .*<split>/<class>"):
        read(animals, "val", None)


def test_an_empty_folder_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="its splits: none"):
        read(tmp_path, "test", None)


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test" / "ant").mkdir(parents=True)
    with pytest.raises(RequestError, match="has no images$"):
        read(tmp_path, "test", None)
    (tmp_path / "test" / "ant" / "a.csv").write_text("")
    with pytest.raises(RequestError, match=r"has no images: 1 file is left out .* image format \(as a\.csv\)"):
        read(tmp_path, "test", None)


def test_a_damaged_image_is_named_by_its_path(animals: Path) -> None:
    path = animals / "test" / "bee" / "0.png"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(RequestError, match=f"cannot decode {path}"):
        read(animals, "test", None)


def test_more_images_than_there_are_is_an_error(animals: Path) -> None:
    with pytest.raises(RequestError, match="n is 10.*has 9 images"):
        read(animals, "test", 10)
