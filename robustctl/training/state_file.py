"""The state of a training on disk, from which a run goes on bit for bit (on the CPU).

``state/last.pt`` is replaced atomically, and the state before it is kept as ``state/previous.pt``. Both are zip
files, whose members carry checksums (CRC-32): a damaged state is noticed before anything is taken from it.
"""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from robustctl.errors import RequestError
from robustctl.files import atomic_path, owner, writing
from robustctl.progress import say

STATE = Path("state") / "last.pt"
PREVIOUS = Path("state") / "previous.pt"


def save(directory: Path, state: dict[str, Any]) -> None:
    """Write the state; a kill at any moment leaves a whole one.

    Raises:
        RunError: no space or no permission.
    """
    path = directory / STATE
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's own writer hides what the system said
            raise OSError(_errno(directory), f"torch could not write it ({str(error).splitlines()[0]})") from error
        _keep(path, directory / PREVIOUS)


def _keep(last: Path, previous: Path) -> None:
    """Let the last state also be the previous one, until it is replaced; by a link, which takes no room and no time."""
    if not last.is_file() or (previous.is_file() and previous.samefile(last)):
        return  # the second after a kill: to rename a link to the file that it links to would do nothing, and leave it
    link = previous.with_name(f".{previous.name}.{owner()}-link.part")
    try:
        link.hardlink_to(last)
    except OSError:  # a file system without hard links
        last.replace(previous)
    else:
        link.replace(previous)


def load(directory: Path) -> dict[str, Any] | None:
    """Read the state (tensors, numbers, text and containers of them, no code), or None if there is none.

    If the last state is missing or damaged, it is the one before it, and a line on stderr says so.

    Raises:
        RequestError: every state that is there is damaged.
    """
    faults = []
    for path in (directory / STATE, directory / PREVIOUS):
        if not path.is_file():
            continue
        try:
            state = _read(path)
        except RequestError as error:
            faults.append(str(error))
            continue
        if path.name == PREVIOUS.name:
            say("; ".join([*faults, f"going on from the state before it, {path}"]))
        return state
    if faults:
        raise RequestError(f"{'; '.join(faults)}; start the run again without --resume")
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as members:
            damaged = members.testzip()
        if damaged is not None:
            raise RequestError(f"{path} is damaged: the checksum of {damaged} does not hold")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except RequestError:
        raise
    except Exception as error:  # zipfile and torch raise many kinds for a damaged file
        raise RequestError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else error!r}") from None
    return state


def _errno(directory: Path) -> int:
    """The likeliest reason why torch could not write here, as the system numbers it."""
    if not os.access(directory, os.W_OK):
        return errno.EACCES
    free = os.statvfs(directory)
    return errno.ENOSPC if free.f_bavail * free.f_frsize < 1 << 20 else errno.EIO
