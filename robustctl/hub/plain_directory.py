"""A registry without any hub: a plain directory (``file:///path``) with a list of hashes. Same functions as ``hub``."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robustctl.errors import RequestError, RunError
from robustctl.files import atomic_path, write_text, writing
from robustctl.hub.download import RemoteFile, Wanted, require_inside
from robustctl.hub.names import FILE
from robustctl.locks import held

SUMS = "SHA256SUMS"  # in the format of sha256sum, so that ``sha256sum -c`` checks it too
CARD = "README.md"
LOCK = ".lock"
LOCK_SECONDS = 60.0
MAX_CARD_BYTES = 1_000_000
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
MAX_SUMS_BYTES = 10_000_000


def is_offline() -> bool:
    """Never: a directory needs no network."""
    return False


def list_files(repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """The files that the list of hashes names; the "commit" is the hash of that list.

    Raises:
        RequestError: no such directory, no list or a damaged one, links, or a revision other than ``main``.
    """
    root = _root(repo)
    if revision != "main":
        raise RequestError(f"{repo} is a plain directory and has no revision {revision!r}")
    if not (root / SUMS).is_file():
        raise RequestError(f"{repo} holds no model that robustctl pushed (no {SUMS})")
    sums = read_sums(root)
    _refuse_links(root, [*sums, SUMS])
    missing = [path for path in sums if not (root / path).is_file()]
    if missing:
        raise RequestError(f"{repo} lacks files that its {SUMS} names: {', '.join(missing)}")
    files = [RemoteFile(path, (root / path).stat().st_size, digest, None) for path, digest in sums.items()]
    return hashlib.sha256((root / SUMS).read_bytes()).hexdigest()[:40], files


def read_sums(root: Path) -> dict[str, str]:
    """The hash by path of a directory's list; empty if it has no list.

    Raises:
        RequestError: it is no such list, or it names a file outside the directory.
    """
    path = root / SUMS
    if not path.is_file():
        return {}
    found = [LINE.fullmatch(line) for line in _lines(path)]
    sums = {line[2]: line[1] for line in found if line}
    if len(sums) < len(found):
        raise RequestError(f"{path} is no list of SHA-256 hashes and files, a line each, as sha256sum writes it")
    for name in sums:
        require_inside(str(root), name)
    return sums


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_SUMS_BYTES:
            raise RequestError(f"{path} has more than {MAX_SUMS_BYTES} bytes")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def wanted(repo: str, _commit: str, file: RemoteFile, path: Path) -> Wanted:
    """The request from which ``download`` copies one file."""
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


def require_writable(repo: str) -> None:
    """Raise RequestError if the directory, or the nearest one above it that is there, cannot be written to."""
    root = _root(repo)
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise RequestError(f"{repo}: cannot write to {nearest}")


def read_card(repo: str) -> str:
    """The README.md that is in the directory; empty if there is none.

    Raises:
        RequestError: it is a link (which would publish what it points to), no file, or larger than 1 MB.
    """
    path = _root(repo) / CARD
    _refuse_links(_root(repo), [CARD])
    if not path.exists():
        return ""
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        raise RequestError(f"{path} is no file of at most {MAX_CARD_BYTES} bytes; a model card is a short text")
    with writing(path):
        return path.read_bytes().decode("utf-8", "surrogateescape")


def push(repo: str, files: dict[str, Path], known: Mapping[Path, str], owned: re.Pattern[str]) -> bool:
    """Write files and the list of their hashes into the directory; returns False if all are there, byte by byte.

    Every file is first copied and checked beside its place and then moved, the list last: a reader in between sees
    hashes that do not fit, never a mixture that does. Damaged and deleted files are written again.

    Args:
        known: hashes of files that need not be made.
        owned: names that only a push writes; files of an earlier push that are not in ``files`` are deleted.

    Raises:
        RequestError: a link is in the way.
        RunError: the place is not writable, a file changed meanwhile, or another process pushes there.
    """
    root = _root(repo)
    _refuse_links(root, [*files, SUMS, LOCK])
    sums = {name: known.get(path) or sha256(path) for name, path in sorted(files.items())}
    with _locked(root):
        for part in _listed(root, ".*.part"):  # of a push that was killed
            (root / part).unlink()
        changed = [name for name, digest in sums.items() if not _holds(root / name, digest)]
        stale = [name for name in _listed(root, "*") if owned.fullmatch(name) and name not in files]
        if not changed and not stale and _lists(root, sums):
            return False
        with ExitStack() as moves:
            for name in changed:
                with writing(root / name):
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                _copy_checked(files[name], moves.enter_context(atomic_path(root / name)), sums[name])
        write_sums(root, sums)
        for name in stale:
            (root / name).unlink()
    return True


def _root(repo: str) -> Path:
    return Path(repo.removeprefix(FILE))


def _refuse_links(root: Path, names: Iterable[str]) -> None:
    """Raise RequestError for a file that is a link, or lies in a folder that is one: it leads out of the directory."""
    for name in names:
        parts = [root.joinpath(*Path(name).parts[: depth + 1]) for depth in range(len(Path(name).parts))]
        if link := next((path for path in parts if path.is_symlink()), None):
            raise RequestError(f"{link} is a link, which leads out of the registry; remove it and push again")


def _listed(root: Path, pattern: str) -> list[str]:
    """Names of the files in the folders that a push writes to."""
    found = [
        path for folder in ("", "robustctl/", "witnesses/", ".eval_results/") for path in root.glob(folder + pattern)
    ]
    return [path.relative_to(root).as_posix() for path in found if path.is_symlink() or path.is_file()]


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _lists(root: Path, sums: dict[str, str]) -> bool:
    """Whether the list of hashes is this one; a damaged list is another."""
    try:
        return read_sums(root) == sums
    except RequestError:
        return False


def _copy_checked(source: Path, target: Path, digest: str) -> None:
    shutil.copyfile(source, target)
    if sha256(target) != digest:
        raise RunError(f"{source} changed while it was pushed")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One process at a time pushes to a directory."""
    with writing(root / LOCK):
        root.mkdir(parents=True, exist_ok=True)
    busy = f"another process pushes to {root}; push again when it has finished"
    with held(root / LOCK, busy, LOCK_SECONDS, mode=0o666):  # other users push to a shared directory too
        yield


def write_sums(root: Path, sums: dict[str, str]) -> None:
    """Write the list of hashes of a directory's files."""
    write_text(root / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def fault_in(root: Path) -> str | None:
    """The first file of a directory that is not what its list of hashes says, or None."""
    try:
        sums = read_sums(root)
    except RequestError as error:
        return str(error)
    for name, digest in sums.items():
        if not (root / name).is_file():
            return f"{root / name} is missing"
        if sha256(root / name) != digest:
            return f"{root / name} is not what was fetched"
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
