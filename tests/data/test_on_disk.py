"""Large pixels lie in a file and are as those in memory; what an evaluation holds does not grow with their number."""

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustctl.data import ImageData, load, on_disk
from robustctl.data.image_data import extremes
from robustctl.errors import RunError


def folder_of(root: Path, n: int, side: int = 16, modes: str = "RGB") -> Path:
    """A folder of ``n`` images of one size in two classes; ``modes`` are taken in turns."""
    random = np.random.default_rng(0)
    for i in range(n):
        path = root / "test" / str(i % 2) / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        coarse.resize((side, side)).convert(modes if i else "RGB").save(path)
    return root


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "LARGE", 1)


def test_images_on_the_disk_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "data", 9)
    plain = load(str(folder), "test")
    monkeypatch.setattr(on_disk, "LARGE", 1)
    found = load(str(folder), "test")
    assert _is_mapped(found) and not _is_mapped(plain)
    on_disk.release(found.x)
    assert torch.equal(found.x, plain.x) and found.content_sha256 == plain.content_sha256
    assert torch.equal(found.images([3, 1]), plain.images([3, 1]))
    assert extremes(found.x) == (float(plain.x.min()), float(plain.x.max()))
    part = found.select([4, 2])
    assert _is_mapped(part) and torch.equal(part.x, plain.x[[4, 2]])


def _is_mapped(data: ImageData) -> bool:
    return data.x.untyped_storage().data_ptr() in on_disk._MAPPED


def test_the_file_is_gone_with_the_pixels(mapped: None) -> None:
    pixels = torch.from_numpy(on_disk.empty((4, 1, 8, 8)))
    pixels.fill_(7)
    on_disk.release(pixels)
    assert (pixels == 7).all()
    before = len(on_disk._MAPPED)
    del pixels
    gc.collect()
    assert len(on_disk._MAPPED) == before - 1


def test_a_full_disk_is_an_error_before_anything_is_decoded(mapped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="space"):
        on_disk.empty((4, 1, 8, 8))


def test_grey_images_with_a_coloured_one_among_them_get_three_channels(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", 5, modes="L")
    (tmp_path / "data" / "test" / "0" / "00000.png").rename(tmp_path / "data" / "test" / "0" / "99999.png")
    found = load(str(folder), "test")
    assert found.x.shape[1] == 3
    grey = [torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]) for x in found.x]
    assert grey.count(False) == 1 and grey[0]


EVALUATES = """
import resource, sys, torch
from torch import nn
import robustctl
from robustctl.data import on_disk
on_disk.LARGE = 1 << 20
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 2)).eval()
result = robustctl.evaluate(model, data=sys.argv[1], n=int(sys.argv[2]), threats="linf:1/255", protocol="fast",
                            batch_size=16, precision="float32", force=True)
assert result.data.n == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_of_an_evaluation_does_not_grow_with_the_number_of_photographs(tmp_path: Path) -> None:
    """300 photographs of 224 pixels have 45 MB, as floats 181 MB; 40 have 6 MB."""
    folder = folder_of(tmp_path / "data", 300, side=224)
    peaks = []
    for n in (40, 300):
        run = [sys.executable, "-c", EVALUATES, str(folder), str(n)]
        found = subprocess.run(
            run, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks.append(int(found.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 15, f"peaks of {peaks} MiB"
