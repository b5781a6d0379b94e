import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustctl.errors import RunError
from robustctl.files import atomic_path, owner, write_text, writing


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert _names(tmp_path) == ["a.json"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(ValueError, match="midway"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def test_a_new_file_has_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "a") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "\u2113\u221e\n")
    assert (tmp_path / "a").read_bytes() == b"\xe2\x84\x93\xe2\x88\x9e\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
    ],
)
def test_refusals_of_the_system_name_the_file(number: int, words: str) -> None:
    with pytest.raises(RunError, match=f"{words}.*/some/file"), writing(Path("/some/file")):
        raise OSError(number, os.strerror(number))


def test_other_refusals_name_the_file_too() -> None:
    with pytest.raises(RunError, match="cannot write x: is a directory"), writing(Path("x")):
        raise IsADirectoryError(errno.EISDIR, "is a directory")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(RunError, match="no space left"), atomic_path(tmp_path / "a") as temporary:
        temporary.symlink_to(full)
        temporary.write_text("x")
    assert _names(tmp_path) == []


def test_a_missing_folder_without_permission_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="no permission to write"):
        write_text(tmp_path / "a", "x")


def _left_by(process: int, path: Path) -> Path:
    """A temporary file of ``path`` as a killed process leaves it."""
    name = owner().replace(f"-{os.getpid()}", f"-{process}")
    litter = path.with_name(f".{path.name}.{name}-0123abcd.part")
    litter.write_text("half", encoding="utf-8")
    return litter


def test_a_write_sweeps_what_a_killed_process_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "model.safetensors"
    dead, living = _left_by(ended.pid, path), _left_by(os.getppid(), path)
    mine = [tmp_path / ".mine.part", tmp_path / f".mine.{owner()}-0123abcd.part"]
    for path_of_mine in mine:
        path_of_mine.touch()
    write_text(path, "whole")
    assert not dead.exists() and living.exists() and all(one.exists() for one in mine)
    assert path.read_text(encoding="utf-8") == "whole"
