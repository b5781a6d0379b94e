"""Writing files so that a crash leaves the old one or the new one. No torch here."""

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustctl.errors import RunError

_UMASK = os.umask(0o022)
os.umask(_UMASK)
_MODE = 0o666 & ~_UMASK
"""Permissions that the user wants new files to have. There is no way to ask for the mask but to set it."""
SCRATCH = ".robustctl-"
"""Begins the names of folders that are gone with the command that made them."""
UNKNOWN = "b00000000"
"""The mark of a process on systems that do not tell when it began."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and move it there when the block ends well.

    Raises:
        RunError: the disk is full, or the place is not writable; nothing is left behind.
    """
    sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{owner()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), _MODE)  # some writers make files that only their owner reads
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def owner() -> str:
    """This machine and this process, as they stand in the names of temporary files."""
    return f"{_machine()}-{os.getpid()}-{_born(os.getpid())}"


def sweep(folder: Path) -> None:
    """Delete the temporary files and folders in ``folder`` that killed processes of this machine left."""
    named = re.compile(rf"\..*[.-]{_machine()}-(\d+)(?:-(b[0-9a-f]{{8}}))?-\w+(\.part)?")
    with contextlib.suppress(OSError):  # a place that cannot be read or changed is told by whoever writes there
        for path in list(folder.iterdir()):
            if (found := named.fullmatch(path.name)) and not _is_alive(int(found[1]), found[2]):
                remove_tree(path)


def is_temporary(path: Path) -> bool:
    """Whether a name is one of a temporary file or folder."""
    return path.name.endswith(".part") or path.name.startswith(SCRATCH)


def remove_tree(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A folder that is gone after the block; if the process is killed, the next scratch in that place deletes it.

    Args:
        folder: its parent; the system's place for temporary files without.
    """
    parent = folder or Path(tempfile.gettempdir())
    sweep(parent)
    with writing(parent):
        made = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{owner()}-", dir=parent)
    with made as name:
        yield Path(name)


def _machine() -> str:
    """A mark of this machine, or of the container: where two do not see each other's processes, it differs."""
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        processes = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {processes}'.encode()):08x}"


def _is_alive(process: int, born: str | None) -> bool:
    """Whether the process that a name tells of still runs: another one may have its number now, after a reboot too."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    now = _born(process)
    return now is not None and (born is None or UNKNOWN in (now, born) or now == born)


def _born(process: int) -> str | None:
    """A mark of the moment at which a process began, since which boot; ``UNKNOWN`` on systems that do not tell.

    The mark is None if the process has ended and its parent has not noticed yet.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return UNKNOWN
    if fields[0] in "ZX":
        return None
    return f"b{zlib.crc32(f'{boot} {fields[19]}'.encode()):08x}"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; raises as ``atomic_path`` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing ``path`` into a RunError that names it."""
    try:
        yield
    except TimeoutError:  # of a lock, which is not about the file
        raise
    except OSError as error:
        raise RunError(_refusal(path, error.errno, error.strerror or str(error))) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError" or not (
            found := re.search(r"(?:os error |code: )(\d+)", str(error))
        ):
            raise
        raise RunError(_refusal(path, int(found[1]), os.strerror(int(found[1])))) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not here yet; RunError if the operating system refuses."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def _refusal(path: Path, number: int | None, reason: str) -> str:
    """The advice for an error number of the operating system's."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left while writing {path}; free some and run the same command again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write {path}"
    if number in (errno.EMFILE, errno.ENFILE):
        return f"cannot write {path}: too many files are open; raise ulimit -n and run the same command again"
    return f"cannot write {path}: {reason}; mend that and run the same command again"
