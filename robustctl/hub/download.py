"""Brings one file over HTTP: checked, resumable, bounded, retried. It knows neither the hub nor entries."""

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from robustctl.errors import RequestError, RunError
from robustctl.files import writing

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
TIMEOUT_SECONDS = 30.0
MAX_BYTES = 50 << 30  # if nobody said how large the file is
RETRIED = (408, 425, 429, 500, 502, 503, 504)

T = TypeVar("T")


class Response(Protocol):
    """The part of an httpx response (1.x and 2.x of the hub's client bring different ones) that is used."""

    status_code: int
    headers: Mapping[str, str]

    def iter_raw(self) -> Iterator[bytes]: ...


Get = Callable[[str, dict[str, str]], AbstractContextManager[Any]]
"""Open a streaming GET of a URL with headers; raises ConnectionError for whatever the network does."""


class Gone(RequestError):
    """The file is not there any more."""


class Changed(RequestError):
    """The file that is there is not the one that was published or first fetched."""


class Resized(RunError):
    """A server announces another size than was published or first fetched; another try may be told the right one."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repo at a commit; the hub gives the SHA-256 of large files, the git hash of small ones."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Wanted:
    """One file.

    Attributes:
        url: its address; it may hold a password, so messages show ``str(wanted)``.
        path: its place here.
        size: its bytes, if known.
        sha256: its hash, if known; ``git_sha1`` is the hub's hash of small files.
        limit: the most bytes to take if the size is not known.
    """

    url: str = field(repr=False)
    path: Path
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    limit: int = MAX_BYTES

    @property
    def hashed(self) -> bool:
        """Whether a hash says which bytes are the right ones."""
        return bool(self.sha256 or self.git_sha1)

    def __str__(self) -> str:
        return shown(self.url)


class Again(ConnectionError):
    """Worth another attempt; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def download(
    wanted: Wanted, get: Get, advance: Callable[[int], None], announce: Callable[[int], None] = lambda size: None
) -> None:
    """Bring ``wanted.path``, atomically: it appears when every byte has been checked.

    After a failure the bytes that have arrived stay beside it (``.part``). The file is continued if the hash is known,
    or if the server says that its file is still the same one (``.part.version`` holds its ETag or date).

    Args:
        advance: called with the number of bytes that have arrived since the last call.
        announce: called with the size if only the server's answer tells it.

    Raises:
        RequestError: the server says that there is no such file, or that this user may not have it.
        RunError: everything else, with what to do; the same command continues.
    """
    part = wanted.path.with_name(f"{wanted.path.name}.part")
    if wanted.size is not None:
        _check_space(wanted, part, wanted.size)
    retried(str(wanted), lambda: _fetch(wanted, part, get, advance, announce))
    _check(wanted, part)
    with writing(wanted.path):
        part.replace(wanted.path)
        _version_file(part).unlink(missing_ok=True)


def shown(url: str) -> str:
    """An address without the user name and the password that it may hold; a path stays as it is."""
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def require_inside(repo: str, path: str) -> None:
    """Raise RequestError for a file name that could leave the folder which it belongs to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or any(letter in path for letter in "\\:\0\n"):
        raise RequestError(f"{repo} has a file name that leaves its folder: {path!r}; nothing was fetched")


def retried(what: str, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """Call until it does not raise ``ConnectionError``, with growing waits; then a RunError that names ``what``."""
    for attempt in range(attempts - 1):
        try:
            return call()
        except ConnectionError as error:
            time.sleep(_wait(attempt, error))
    try:
        return call()
    except ConnectionError as error:
        raise RunError(f"{what}: {error}; gave up after {attempts} attempts, the same command continues") from None


def _wait(attempt: int, error: ConnectionError) -> float:
    """Seconds before the next attempt: doubling, with jitter, and no less than the server asked for."""
    own: float = FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.75, 1.25)
    asked = error.wait if isinstance(error, Again) else 0.0
    return min(max(own, asked), LONGEST_WAIT_SECONDS)


def _fetch(
    wanted: Wanted, part: Path, get: Get, advance: Callable[[int], None], announce: Callable[[int], None]
) -> None:
    """One attempt: continue ``part`` if it has bytes of the same file, else begin it."""
    have = part.stat().st_size if part.is_file() else 0
    version = _read_version(part)
    if not wanted.hashed and version is None:
        have = 0  # nothing would tell whether old bytes and new ones are of the same file
    if wanted.size and have >= wanted.size:
        return
    headers = wanted.headers | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and version and not wanted.hashed:
        headers |= {"If-Range": version}
    with get(wanted.url, headers) as response:
        _refuse(wanted, response)
        continued = response.status_code == 206
        if not wanted.hashed:
            if continued and _version(response) != version:
                _version_file(part).unlink(missing_ok=True)
                raise Again("the file there has changed meanwhile")
            _write_version(part, response)
        if wanted.size is None and (size := _announced(response, have if continued else 0)) is not None:
            announce(size)
            _check_space(wanted, part, size)
        with writing(part), part.open("ab" if continued else "wb") as file:
            got = have if continued else 0
            limit = wanted.size if wanted.size is not None else wanted.limit
            for chunk in response.iter_raw():
                got += len(chunk)
                if got > limit:
                    raise RunError(f"{wanted} sends more than the {limit} bytes that it should have")
                file.write(chunk)
                advance(len(chunk))
    expected = wanted.size if wanted.size is not None else _announced(response, have if continued else 0)
    if expected is not None and got < expected:
        raise Again(f"the connection ended after {got} of {expected} bytes")


def _version(response: Response) -> str | None:
    """A text that changes when the server's file does: its strong ETag, else its date."""
    tag: str = response.headers.get("etag", "")
    date: str = response.headers.get("last-modified", "")
    return tag if tag and not tag.startswith("W/") else date or None


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_version(part: Path) -> str | None:
    """The version of the file that ``part`` is the beginning of; None if it is not known."""
    path = _version_file(part)
    return (path.read_text(encoding="latin-1").strip() or None) if path.is_file() else None


def _write_version(part: Path, response: Response) -> None:
    with writing(part):
        _version_file(part).write_text(_version(response) or "", encoding="latin-1")


def _announced(response: Response, before: int) -> int | None:
    length = response.headers.get("content-length", "")
    return before + int(length) if length.isdecimal() else None


def probe(wanted: Wanted, get: Get) -> None:
    """Ask for a file and look at the answer's head only; raises as ``download`` does."""
    with get(wanted.url, wanted.headers | {"Accept-Encoding": "identity"}) as response:
        _refuse(wanted, response)


def _refuse(wanted: Wanted, response: Response) -> None:
    """Turn every answer that is not the file into its message."""
    status = response.status_code
    if status in RETRIED:
        asked = response.headers.get("retry-after", "")
        raise Again(f"the server answered {status}", float(asked) if asked.isdecimal() else 0.0)
    if status in (401, 403) and "gated" in response.headers.get("x-error-code", "").lower():
        page = str(wanted).partition("/resolve/")[0]
        token = " and set HF_TOKEN" if status == 401 else ", with the account of your token"
        raise RequestError(f"access refused ({status}): the repo is gated; accept its terms on {page}{token}")
    if status in (401, 403):
        raise RequestError(f"{wanted}: access refused ({status}); it needs a token (HF_TOKEN) that may read it")
    if status in (404, 410):
        raise Gone(f"{wanted}: there is no such file ({status})")
    if status == 416:
        wanted.path.with_name(f"{wanted.path.name}.part").unlink(missing_ok=True)
        raise Again("the server cannot continue there")
    if status not in (200, 206):
        raise RunError(f"{wanted}: the server answered {status}")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise RunError(f"{wanted} answered with a web page (HTML) instead of the file; it may ask for a login")
    length = _announced(response, 0)
    if status == 200 and wanted.size is not None and length is not None and length != wanted.size:
        raise Resized(f"{wanted} has {length} bytes, expected {wanted.size}")


def _check(wanted: Wanted, part: Path) -> None:
    fault = fault_of(wanted, part)
    if fault:
        part.unlink(missing_ok=True)
        raise RunError(f"{wanted}: {fault}; the file was deleted. Run the same command again")


def fault_of(wanted: Wanted, part: Path) -> str | None:
    """The fault of the bytes in ``part``; None if there is no fault."""
    size = part.stat().st_size
    if wanted.size is not None and size != wanted.size:
        return f"{size} bytes arrived, expected {wanted.size}"
    with part.open("rb") as file:
        if wanted.sha256 and (found := hashlib.file_digest(file, "sha256").hexdigest()) != wanted.sha256:
            return f"its SHA-256 is {found}, expected {wanted.sha256}"
        file.seek(0)
        if wanted.git_sha1 and (found := git_sha1(file.read())) != wanted.git_sha1:
            return f"its git hash is {found}, expected {wanted.git_sha1}"
    return None


def is_web_page(path: Path) -> bool:
    """Whether a file is what a login or an error page leaves in the place of what was asked for."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    return head.startswith((b"<!doctype", b"<html", b"<?xml"))


def git_sha1(content: bytes) -> str:
    """The hash under which git, and so the hub, knows a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_space(wanted: Wanted, part: Path, size: int) -> None:
    missing = size - (part.stat().st_size if part.is_file() else 0)
    free = shutil.disk_usage(wanted.path.parent).free
    if missing > free:
        raise RunError(f"{wanted.path.parent} has {free} bytes free, {wanted} needs {missing}; make room first")
