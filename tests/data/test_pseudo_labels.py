import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl.data import memory
from robustctl.data.pseudo_labels import read
from robustctl.errors import RequestError

SHAPE = (3, 32, 32)


def write(tmp_path: Path, content: object, protocol: int = 4) -> Path:
    path = tmp_path / "extra.pickle"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_carmons_layout_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    path = write(tmp_path, {"data": images, "extrapolated_targets": np.arange(5)}, protocol)
    x, y = read(path, SHAPE, 10)
    assert np.array_equal(x.numpy(), images.transpose(0, 3, 1, 2)) and y.tolist() == [0, 1, 2, 3, 4]


class Trap:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_code_in_the_pickle_never_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(RequestError, match="not part of an array"):
        read(write(tmp_path, {"data": Trap(trace)}), SHAPE, 10)
    assert not trace.exists()


IMAGES = np.zeros((4, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"data": IMAGES}, "extrapolated_targets"),
        ({"data": IMAGES.astype(np.float32), "extrapolated_targets": np.zeros(4, int)}, "needed is uint8"),
        ({"data": IMAGES[:, :28], "extrapolated_targets": np.zeros(4, int)}, r"\[n, 32, 32, 3\]"),
        ({"data": IMAGES, "extrapolated_targets": np.zeros(3, int)}, "as many whole-number labels"),
        ({"data": IMAGES, "extrapolated_targets": np.full(4, 10)}, "labels go from 10 to 10"),
        ([1, 2], "no file of pseudo-labelled images"),
    ],
)
def test_another_layout_is_a_request_error(tmp_path: Path, content: object, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        read(write(tmp_path, content), SHAPE, 10)


def test_missing_and_truncated_files_are_request_errors(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file at"):
        read(tmp_path / "none", SHAPE, 10)
    path = write(tmp_path, {"data": IMAGES, "extrapolated_targets": np.zeros(4, int)})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RequestError):
        read(path, SHAPE, 10)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("last", [True, False])
def test_generated_sets_are_read_in_either_layout(tmp_path: Path, save: Callable[..., None], last: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    label = np.array([3, 1, 2, 0, 9])
    save(tmp_path / "a.npz", label=label, image=images.transpose(0, 2, 3, 1) if last else images)
    x, y = read(tmp_path / "a.npz", SHAPE, 10)
    assert np.array_equal(x.numpy(), images) and y.tolist() == label.tolist()
    assert np.array_equal(x[torch.tensor([4, 0])].numpy(), images[[4, 0]])


def test_an_uncompressed_file_is_mapped_and_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free", lambda: 1000)
    np.savez(tmp_path / "a.npz", image=IMAGES, label=np.zeros(4, int))
    assert read(tmp_path / "a.npz", SHAPE, 10)[0].shape == (4, 3, 32, 32)
    np.savez_compressed(tmp_path / "a.npz", image=IMAGES, label=np.zeros(4, int))
    with pytest.raises(RequestError, match="of memory are free"):
        read(tmp_path / "a.npz", SHAPE, 10)


def test_generated_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 28, 28, 3), np.uint8), label=np.zeros(4, int))
    with pytest.raises(RequestError, match=r"shape \[4, 3, 28, 28\] .*needed is uint8 of shape \[n, 3, 32, 32\]"):
        read(tmp_path / "a.npz", SHAPE, 10)
    np.savez(tmp_path / "a.npz", image=IMAGES, label=np.full(4, 10))
    with pytest.raises(RequestError, match="labels go to 10, classes to 9"):
        read(tmp_path / "a.npz", SHAPE, 10)
