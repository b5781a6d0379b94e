"""What the system refuses while weights or states are written is a message, and the file from before stays."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from robustctl import checkpoint
from robustctl.errors import RunError
from robustctl.training import state_file


def _weights(directory: Path, value: float) -> None:
    checkpoint.save_tensors({"w": torch.full((5000,), value)}, directory / "model.safetensors")


def _state(directory: Path, value: float) -> None:
    state_file.save(directory, {"w": torch.full((5000,), value)})


@contextmanager
def _files_of_at_most(n: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond ``n`` bytes, as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("save", [_weights, _state])
@pytest.mark.parametrize("limit", [0, 100, 10_000, 20_000])
def test_a_refused_write_is_a_message_and_leaves_the_file_from_before(
    tmp_path: Path, save: Callable[[Path, float], None], limit: int
) -> None:
    save(tmp_path, 1.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with _files_of_at_most(limit), pytest.raises(RunError, match="cannot write .*(model.safetensors|last.pt)"):
        save(tmp_path, 2.0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
