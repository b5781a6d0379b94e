import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustctl import files
from robustctl.errors import RunError
from robustctl.files import atomic_path, owner, scratch, write_text, writing


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


def _left_by(process: int, path: Path, born: str = "") -> Path:
    """A temporary file of ``path`` as a process leaves it that is killed, or that has been as long as this one."""
    name = owner().replace(f"-{os.getpid()}-", f"-{process}-")
    litter = path.with_name(f".{path.name}.{name.rpartition('-')[0]}-{born or files._born(process)}-0123abcd.part")
    litter.write_text("half", encoding="utf-8")
    return litter


def test_a_write_sweeps_what_a_killed_process_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    path = tmp_path / "model.safetensors"
    dead = _left_by(ended.pid, path)
    ended.wait()
    living = _left_by(os.getppid(), path)
    mine = [tmp_path / ".mine.part", tmp_path / f".mine.{owner()}-0123abcd.part"]
    for path_of_mine in mine:
        path_of_mine.touch()
    write_text(path, "whole")
    assert not dead.exists() and living.exists() and all(one.exists() for one in mine)
    assert path.read_text(encoding="utf-8") == "whole"


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not tell")


@needs_proc
def test_a_number_that_another_process_has_now_protects_nothing(tmp_path: Path) -> None:
    """After a reboot, say."""
    path = tmp_path / "a"
    before, now = _left_by(os.getppid(), path, "b0123abcd"), _left_by(os.getppid(), path)
    write_text(path, "whole")
    assert not before.exists() and now.exists()


@needs_proc
def test_a_process_that_has_ended_unnoticed_protects_nothing(tmp_path: Path) -> None:
    """The first process of a container often does not look after its children."""
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    litter = _left_by(ended.pid, tmp_path / "a")
    assert ended.stdin is not None
    ended.stdin.close()
    while files._born(ended.pid) is not None:
        time.sleep(0.01)
    write_text(tmp_path / "a", "whole")
    assert not litter.exists()
    ended.wait()


def test_a_scratch_folder_is_gone_after_its_block_and_after_a_kill(tmp_path: Path) -> None:
    code = "import os; from pathlib import Path; from robustctl.files import scratch\n"
    code += "with scratch(Path('.')) as made: (made / 'weights').touch(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert len(_names(tmp_path)) == 1
    with scratch(tmp_path) as made:
        assert _names(tmp_path) == [made.name]
    assert _names(tmp_path) == []
