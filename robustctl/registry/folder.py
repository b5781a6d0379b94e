"""A registry without any hub: a plain directory (``file:///path``) with a list of hashes. Same functions as ``hub``."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from robustctl.errors import RequestError
from robustctl.files import atomic_path, write_text, writing
from robustctl.registry.download import RemoteFile, Wanted, require_inside
from robustctl.registry.locate import FILE

SUMS = "SHA256SUMS"  # in the format of sha256sum, so that ``sha256sum -c`` checks it too


def is_offline() -> bool:
    """Never: a directory needs no network."""
    return False


def list_files(repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """The files that the list of hashes names; the "commit" is the hash of that list.

    Raises:
        RequestError: no such directory, no list, or a revision other than ``main``.
    """
    root = Path(repo.removeprefix(FILE))
    if revision != "main":
        raise RequestError(f"{repo} is a plain directory and has no revision {revision!r}")
    if not (root / SUMS).is_file():
        raise RequestError(f"{repo} holds no model that robustctl pushed (no {SUMS})")
    sums = read_sums(root)
    for path in sums:
        require_inside(repo, path)
    missing = [path for path in sums if not (root / path).is_file()]
    if missing:
        raise RequestError(f"{repo} lacks files that its {SUMS} names: {', '.join(missing)}")
    files = [RemoteFile(path, (root / path).stat().st_size, digest, None) for path, digest in sums.items()]
    return hashlib.sha256((root / SUMS).read_bytes()).hexdigest()[:40], files


def read_sums(root: Path) -> dict[str, str]:
    """Hash by path of a directory's list; empty where it has none."""
    path = root / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split("  ", 1) for line in lines if "  " in line)
    return {name: digest for digest, name in pairs}


def wanted(repo: str, _commit: str, file: RemoteFile, path: Path) -> Wanted:
    """What ``download`` needs to copy one file."""
    return Wanted(str(Path(repo.removeprefix(FILE)) / file.path), path, file.size, file.sha256)


class _Copy:
    """A file that answers like a server."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        self.start = start
        self.status_code = 206 if start else 200
        self.headers = {"content-length": str(path.stat().st_size - start)}

    def iter_raw(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            while chunk := file.read(1 << 20):
                yield chunk


@contextmanager
def get(path: str, request_headers: dict[str, str]) -> Iterator[_Copy]:
    """Open a file from the byte that a Range header names."""
    start = request_headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
    yield _Copy(Path(path), int(start))


def push(repo: str, files: dict[str, Path], known: Mapping[Path, str]) -> bool:
    """Write files and the list of their hashes (some are ``known``) into the directory; False where all are there."""
    root = Path(repo.removeprefix(FILE))
    sums = {name: known.get(path) or sha256(path) for name, path in sorted(files.items())}
    if read_sums(root) == sums:
        return False
    for name, path in files.items():
        target = root / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
    write_sums(root, sums)
    return True


def write_sums(root: Path, sums: dict[str, str]) -> None:
    """Write the list of hashes of a directory's files."""
    write_text(root / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def fault_in(root: Path) -> str | None:
    """The first file of a directory that is not what its list of hashes says, or None."""
    for name, digest in read_sums(root).items():
        if not (root / name).is_file():
            return f"{root / name} is missing"
        if sha256(root / name) != digest:
            return f"{root / name} is not what was fetched"
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
