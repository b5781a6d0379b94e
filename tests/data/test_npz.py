import io
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustctl import data
from robustctl.data import memory
from robustctl.data.columns import Columns
from robustctl.data.npz import read
from robustctl.errors import RequestError

Y = np.array([0, 1, 2, 1])


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_keep_their_type_and_values(tmp_path: Path, dtype: type) -> None:
    x = np.ones((4, 1, 2, 2), dtype=dtype)
    found = read(_save(tmp_path / "a.npz", x=x, y=Y), 3)
    got, y, n_classes = found.x, found.y, found.n_classes
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


def test_only_what_is_asked_for_is_read_of_an_array_of_gigabytes(tmp_path: Path) -> None:
    rows, size = 40_000_000, 64  # 2.5 GB of pixels in a file of 3 MB
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape, dtype in (("x", (rows, 1, 8, 8), np.uint8), ("y", (rows,), np.uint8)):
            header = io.BytesIO()
            kind = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, kind)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(header.getvalue() + bytes(rows if name == "y" else 10 * size))  # the rest is never read
    tracemalloc.start()
    try:
        found = read(tmp_path / "a.npz", 3)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert (len(found.x), found.n_classes) == (3, 1)


def test_more_than_the_memory_holds_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda: 3000)
    with pytest.raises(RequestError, match="x of .* would take .* GB, but .* are free; ask for fewer: --n N"):
        read(_save(tmp_path / "a.npz", x=np.zeros((300, 1, 4, 4), np.uint8), y=np.zeros(300, int)), None)
    assert len(read(tmp_path / "a.npz", 100).x) == 100


def test_generated_sets_are_read_by_their_own_names_and_layout(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    found = read(_save(tmp_path / "a.npz", image=image, label=Y), 3)
    assert torch.equal(found.x, torch.from_numpy(image[:3]).permute(0, 3, 1, 2))
    assert found.x.is_contiguous() and found.y.tolist() == [0, 1, 2]


def test_arrays_of_other_names_are_chosen(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", x=F4, y=Y, fine=Y + 1)
    assert read(path, None, Columns(label="fine")).y.tolist() == (Y + 1).tolist()
    with pytest.raises(RequestError, match="no array 'coarse'; its arrays: x, y, fine"):
        read(path, None, Columns(label="coarse"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("targets", ["labels.npy", "a/other.npy"])
def test_a_pair_of_files_is_read(tmp_path: Path, order: Any, targets: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "fog.npy", np.asarray(image, order=order))
    np.save(tmp_path / targets, Y.astype(np.uint8))
    source = f"{tmp_path}/fog.npy" + ("" if targets == "labels.npy" else f",{tmp_path}/{targets}")
    images = data.load(source, "test", 3)
    assert torch.equal(images.x, torch.from_numpy(image[:3])) and images.y.tolist() == [0, 1, 2]
    assert (images.split, images.n_classes) == ("all", 3)


def test_images_without_their_labels_are_told_how_to_name_them(tmp_path: Path) -> None:
    np.save(tmp_path / "fog.npy", F4)
    with pytest.raises(RequestError, match=r"no file .*labels\.npy; .*X\.npy,Y\.npy"):
        data.load(f"{tmp_path}/fog.npy", "test")


def test_an_array_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", Y)
    np.save(tmp_path / "x.npy", F4)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-10])
    with pytest.raises(RequestError, match="ends after 54 of 64 bytes"):
        data.load(f"{tmp_path}/x.npy", "test")


@pytest.mark.parametrize(
    ("shape", "told"),
    [((10, 1 << 14, 1 << 14, 3), "an image of x has 805,306,368 values"), ((10, 1, 8000, 8000), "ends after 256 of")],
)
def test_memory_follows_from_what_is_there_not_from_what_a_header_promises(
    tmp_path: Path, shape: tuple[int, ...], told: str
) -> None:
    begin = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(begin, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", begin.getvalue() + bytes(256))
        labels = io.BytesIO()
        np.save(labels, np.zeros(shape[0], np.int64))
        archive.writestr("y.npy", labels.getvalue())
    tracemalloc.start()
    with pytest.raises(RequestError, match=told):
        read(tmp_path / "x.npz", 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
