"""A plain directory as a registry: what two pushers, damage and links do to it."""

import os
import re
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from robustctl.errors import RequestError, RunError
from robustctl.hub import plain_directory
from robustctl.hub.plain_directory import fault_in, list_files, push, read_card, require_writable

OWNED = re.compile(r"old-\d\.bin")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    source = tmp_path / "source"
    source.mkdir()
    made = {"a.bin": source / "a", "robustctl/b.json": source / "b"}
    for path in made.values():
        path.write_bytes(path.name.encode() * 1000)
    return made


@pytest.fixture
def root(tmp_path: Path, files: dict[str, Path]) -> Path:
    path = tmp_path / "share" / "m"
    assert push(f"file://{path}", files, {}, OWNED)
    return path


def visible(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name != ".lock"
    )


@pytest.mark.parametrize("damage", ["changed", "deleted", "empty"])
def test_a_push_repairs_what_was_damaged(root: Path, files: dict[str, Path], damage: str) -> None:
    assert not push(f"file://{root}", files, {}, OWNED)
    victim = root / "a.bin"
    if damage == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(b"x" * 1000 if damage == "changed" else b"")
    assert push(f"file://{root}", files, {}, OWNED)
    assert fault_in(root) is None
    assert not push(f"file://{root}", files, {}, OWNED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00binary", "cannot read .*SHA256SUMS"),
        (b"0" * 64 + b"  ../outside\n", "leaves its folder: '../outside'"),
        (b"0" * 64 + b"  /etc/passwd\n", "leaves its folder: '/etc/passwd'"),
        (b"0" * 64 + b"  gone.bin\n", "lacks files that its SHA256SUMS names: gone.bin"),
        (b"a.bin\n", "is no list of SHA-256 hashes"),
        (b"0" * 63 + b"  a.bin\n", "is no list of SHA-256 hashes"),
        (b"0" * 10_000_001, "more than 10000000 bytes"),
    ],
    ids=range(7),
)
def test_a_damaged_list_of_hashes_is_refused_and_the_next_push_repairs_it(
    root: Path, files: dict[str, Path], content: bytes, message: str
) -> None:
    (root / "SHA256SUMS").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        list_files(f"file://{root}", "main")
    assert push(f"file://{root}", files, {}, OWNED)
    assert {file.path for file in list_files(f"file://{root}", "main")[1]} == set(files)


def test_a_directory_without_its_list_is_no_registry(root: Path) -> None:
    (root / "SHA256SUMS").unlink()
    with pytest.raises(RequestError, match="holds no model that robustctl pushed"):
        list_files(f"file://{root}", "main")


@pytest.mark.parametrize("name", ["a.bin", "robustctl", "SHA256SUMS"])
def test_a_reader_does_not_follow_links(root: Path, tmp_path: Path, name: str) -> None:
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RequestError, match=f"{name} is a link"):
        list_files(f"file://{root}", "main")


def test_what_an_earlier_push_left_is_deleted_and_what_a_user_put_there_stays(
    root: Path, files: dict[str, Path]
) -> None:
    for name in ("old-1.bin", "mine.txt", ".a.bin.0123.part"):
        (root / name).write_text("x")
    assert push(f"file://{root}", files, {}, OWNED)
    assert visible(root) == ["SHA256SUMS", "a.bin", "mine.txt", "robustctl/b.json"]


def test_a_failed_push_changes_nothing(root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (root / name).read_bytes() for name in visible(root)}
    for path in files.values():
        path.write_bytes(b"new")
    copy = plain_directory._copy_checked

    def full(source: Path, target: Path, digest: str) -> None:
        if source.name == "b":
            raise OSError(28, "No space left on device")
        copy(source, target, digest)

    monkeypatch.setattr(plain_directory, "_copy_checked", full)
    with pytest.raises(RunError, match="no space left"):
        push(f"file://{root}", files, {}, OWNED)
    assert {name: (root / name).read_bytes() for name in visible(root)} == before


def test_a_file_that_changes_while_it_is_pushed_is_noticed(root: Path, files: dict[str, Path]) -> None:
    files["a.bin"].write_bytes(b"other")
    with pytest.raises(RunError, match="changed while it was pushed"):
        push(f"file://{root}", files, {files["a.bin"]: "0" * 64}, OWNED)
    assert fault_in(root) is None


def test_two_pushers_at_once_leave_one_of_the_two_models_whole(tmp_path: Path) -> None:
    root, errors = tmp_path / "share", []

    def push_often(letter: str) -> None:
        paths = {name: tmp_path / f"{letter}-{name}" for name in ("a.bin", "b.bin", "c.bin")}
        for path in paths.values():
            path.write_text(letter * 10_000)
        try:
            for _ in range(5):
                push(f"file://{root}", paths, {}, OWNED)
        except BaseException as error:  # a thread's exception would be lost
            errors.append(error)

    threads = [threading.Thread(target=push_often, args=(letter,)) for letter in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert fault_in(root) is None
    assert len({(root / name).read_text() for name in ("a.bin", "b.bin", "c.bin")}) == 1


def test_a_push_beside_another_waits_and_then_says_so(
    root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_directory, "LOCK_SECONDS", 0.01)
    with FileLock(root / ".lock"), pytest.raises(RequestError, match="another process pushes"):
        push(f"file://{root}", files, {}, OWNED)


@pytest.mark.parametrize("name", ["a.bin", "robustctl", "SHA256SUMS", ".lock"])
def test_links_in_the_directory_are_refused_and_not_followed(
    root: Path, files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    if name == "robustctl":
        outside.mkdir()
        (root / "robustctl" / "b.json").unlink()
        (root / "robustctl").rmdir()
    else:
        outside.write_text("secret")
        (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(outside)
    with pytest.raises(RequestError, match=f"{name} is a link"):
        push(f"file://{root}", files, {}, OWNED)
    assert not list(outside.iterdir()) if outside.is_dir() else outside.read_text() == "secret"


def test_a_card_that_is_a_link_or_huge_or_no_file_is_not_read(root: Path, tmp_path: Path) -> None:
    assert read_card(f"file://{root}") == ""
    (tmp_path / "key").write_text("PRIVATE KEY")
    card = root / "README.md"
    card.symlink_to(tmp_path / "key")
    with pytest.raises(RequestError, match="is a link"):
        read_card(f"file://{root}")
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(RequestError, match="is no file"):
        read_card(f"file://{root}")
    card.unlink()
    card.write_bytes(b"x" * 1_000_001)
    with pytest.raises(RequestError, match="at most 1000000 bytes"):
        read_card(f"file://{root}")


def test_a_place_that_cannot_be_written_to_is_found_before_long_work(tmp_path: Path) -> None:
    require_writable(f"file://{tmp_path}/new/deep")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write to"):
        require_writable(f"file://{tmp_path}/file/m")
