import os
from pathlib import Path

import pytest
import torch

from robustctl.errors import RequestError, RunError
from robustctl.training import state_file


def test_state_reads_back_and_nothing_temporary_stays(tmp_path: Path) -> None:
    state = {"step": 3, "tensor": torch.arange(4.0), "nested": {"list": [1, 2.5, "text", None]}}
    state_file.save(tmp_path, state)
    loaded = state_file.load(tmp_path)
    assert loaded is not None and torch.equal(loaded.pop("tensor"), state.pop("tensor")) and loaded == state
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["last.pt"]


def test_no_state_is_none(tmp_path: Path) -> None:
    assert state_file.load(tmp_path) is None


def test_failed_save_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_file.save(tmp_path, {"step": 1})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left"):
        state_file.save(tmp_path, {"step": 2})
    assert state_file.load(tmp_path) == {"step": 1}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_damaged_state_is_a_request_error(tmp_path: Path, content: bytes) -> None:
    state_file.save(tmp_path, {"step": 1})
    (tmp_path / state_file.STATE).write_bytes(content)
    with pytest.raises(RequestError, match="cannot read"):
        state_file.load(tmp_path)


def test_code_in_a_state_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'trace'}",)

    state_file.save(tmp_path, {"step": Trap()})
    with pytest.raises(RequestError):
        state_file.load(tmp_path)
    assert not (tmp_path / "trace").exists()
