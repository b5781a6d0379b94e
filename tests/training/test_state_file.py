import os
import random
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


def test_a_kill_between_the_two_states_leaves_nothing_after_the_next_save(tmp_path: Path) -> None:
    state_file.save(tmp_path, {"step": 1})
    folder = tmp_path / "state"
    (folder / "previous.pt").hardlink_to(folder / "last.pt")  # the state before was kept, the new one not yet moved
    state_file.save(tmp_path, {"step": 2})
    assert {path.name for path in folder.iterdir()} == {"last.pt", "previous.pt"}
    assert state_file.load(tmp_path) == {"step": 2}


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
    with pytest.raises(RequestError, match="is damaged.*start the run again without --resume"):
        state_file.load(tmp_path)


def test_every_flipped_bit_is_noticed_and_the_state_before_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, last = {"step": 1, "w": torch.zeros(64)}, {"step": 2, "w": torch.randn(64), "list": [1.0, 2.0]}
    state_file.save(tmp_path, before)
    state_file.save(tmp_path, last)
    path = tmp_path / state_file.STATE
    sound, rng = path.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(150):
        flipped = bytearray(sound)
        at = rng.randrange(len(sound))
        flipped[at] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found = state_file.load(tmp_path)
        assert found is not None
        if found["step"] == 1:
            noticed += 1
            assert "going on from the state before it" in capsys.readouterr().err
        else:  # a bit of the padding or of a member's unused fields: what is read is what was written
            assert torch.equal(found["w"], last["w"]) and found["list"] == last["list"]
    assert noticed > 30


def test_a_missing_last_state_is_that_before_it(tmp_path: Path) -> None:
    state_file.save(tmp_path, {"step": 1})
    state_file.save(tmp_path, {"step": 2})
    (tmp_path / state_file.STATE).unlink()
    assert state_file.load(tmp_path) == {"step": 1}


def test_code_in_a_state_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'trace'}",)

    state_file.save(tmp_path, {"step": Trap()})
    with pytest.raises(RequestError):
        state_file.load(tmp_path)
    assert not (tmp_path / "trace").exists()
