"""Of ``robustctl/data/__init__.py``."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustctl import data
from robustctl.errors import RequestError


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
