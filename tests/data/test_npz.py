import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustctl.data.npz import read
from robustctl.errors import RequestError

Y = np.array([0, 1, 2, 1])


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_keep_their_type_and_values(tmp_path: Path, dtype: type) -> None:
    x = np.ones((4, 1, 2, 2), dtype=dtype)
    got, y, n_classes = read(_save(tmp_path / "a.npz", x=x, y=Y), 3)
    assert torch.equal(got, torch.from_numpy(x[:3]))
    assert (y.tolist(), y.dtype, n_classes) == ([0, 1, 2], torch.int64, 3)


F4 = np.zeros((4, 1, 2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": Y}, "no array 'x'; its arrays: y"),
        ({"x": F4}, "no array 'y'"),
        ({"x": F4.astype(np.float64), "y": Y}, "x is float64"),
        ({"x": F4[:, 0], "y": Y}, "x is float32 [4, 2, 2]"),
        ({"x": F4, "y": Y[:3]}, "y is int64 [3]"),
        ({"x": F4, "y": Y.astype(np.float32)}, "y is float32"),
        ({"x": F4 + 255, "y": Y}, "x reaches from 255 to 255"),
        ({"x": F4 * np.nan, "y": Y}, "within [0,1]"),
        ({"x": F4 - 0.1, "y": Y}, "within [0,1]"),
        ({"x": F4, "y": -Y}, "row 1 has label -1"),
        ({"x": F4[:0], "y": Y[:0]}, "has no images"),
        ({"x": np.array([{}], dtype=object), "y": Y}, "cannot read"),
    ],
)
def test_a_fault_is_refused_in_the_words_of_the_file(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        read(_save(tmp_path / "a.npz", **arrays), None)


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04truncated"])
def test_a_foreign_or_truncated_file_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"cannot read .*a\.npz"):
        read(path, None)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", F4)
    with pytest.raises(RequestError, match="cannot read"):
        read(tmp_path / "a.npy", None)


def test_more_images_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="n is 5.*has 4 images"):
        read(_save(tmp_path / "a.npz", x=F4, y=Y), 5)
