"""Brings repos of the client, or of a plain directory (``file://``), into ``home()``: pinned, verified, atomic."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote

from robustctl.discovery import names, unknown
from robustctl.errors import RequestError
from robustctl.files import make_folder, remove_tree, write_text
from robustctl.hub import plain_directory
from robustctl.hub.download import Get, RemoteFile, Wanted, download
from robustctl.hub.names import COMMIT, EVAL_RESULTS, FILE, REPO_ID, REVISION
from robustctl.hub.plain_directory import sha256
from robustctl.locks import held
from robustctl.models.find import (
    changing,
    home,
    pulled_directory,
    ref_file,
    repo_home,
)
from robustctl.models.foreign import not_ours, require_own_config
from robustctl.progress import Megabytes, progress
from robustctl.spec import CONFIG, WEIGHTS, ModelSpec, read_spec

SMALL = 10_000_000  # bound of everything that is not weights
ALL_SMALL = 10 * SMALL
MAX_FILES = 1000
UNQUESTIONED = 2 << 30  # to ask how large weights may be takes torch, which takes longer than to fetch a common model
MAX_NAMED = 20 << 30  # of a model of another library
RECORD = re.compile(r"robustctl/[\w.-]+\.json|robustctl/code/[\w.-]+\.py", re.ASCII)  # code is kept to be read
WITNESSES = re.compile(r"witnesses/[\w.-]+\.safetensors", re.ASCII)
ALL_WITNESSES = 2 << 30
SHARD = re.compile(r"model-[\w-]+\.safetensors", re.ASCII)
SPLIT = re.compile(r"\w[\w.-]*")
CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps the parquet files that it makes of other formats."""
INDEX = "model.safetensors.index.json"
PART = ".part"


def pull(repo: str, revision: str = "main") -> Path:
    """Bring a model repo that robustctl pushed.

    Returns:
        Its directory. Files that are there already and complete are not fetched again; offline, they are all there is.

    Raises:
        RequestError: no such repo, or not a model of robustctl.
        RunError: the network, the disk, or bytes that do not match their hashes; the same command continues.
    """
    if not REVISION.fullmatch(revision):
        raise RequestError(f"revision {revision!r} is no branch, tag or commit")
    if not (repo.startswith(FILE) or REPO_ID.fullmatch(repo)):
        raise RequestError(f"{repo!r} is no repo id; write USER/NAME, USER/NAME@REVISION or file:///path")
    registry = _registry(repo)
    if registry.is_offline() and (here := pulled_directory(repo, revision)) is not None:
        return here
    commit, files = registry.list_files(repo, revision)
    chosen = [file for file in files if _is_ours(file.path)]
    paths = {file.path for file in chosen}
    if CONFIG not in paths or not paths & {WEIGHTS, INDEX}:
        raise not_ours(repo, [file.path for file in files], f"it lacks {CONFIG if CONFIG not in paths else WEIGHTS}")
    small = [file for file in chosen if not _is_weights(file.path)]
    _check_sizes(repo, chosen, small)
    directory = repo_home(repo) / commit
    with changing(repo):
        _drop_beginnings(directory)
        if not directory.is_dir():
            want = partial(registry.wanted, repo, commit)
            staging = _fetch(repo, small, directory, want, registry.get)
            weights = [file for file in chosen if _is_weights(file.path)]
            try:
                require_own_config(repo, staging, [file.path for file in files])
                spec = read_spec(staging)
            except RequestError as error:  # the name of the staging folder helps nobody
                raise RequestError(str(error).replace(str(staging), repo)) from None
            _check_spec(repo, spec, sum(file.size for file in weights))
            _fetch(repo, weights, directory, want, registry.get)
            plain_directory.write_sums(
                staging, {file.path: file.sha256 or sha256(staging / file.path) for file in chosen}
            )
            staging.replace(directory)
        write_text(_made(ref_file(repo, revision)), commit)
    return directory


class Registry(Protocol):
    """The interface that ``hub.client`` and ``hub.plain_directory`` have in common."""

    def is_offline(self) -> bool: ...

    def list_files(self, repo: str, revision: str, /) -> tuple[str, list[RemoteFile]]: ...

    def wanted(self, repo: str, commit: str, file: RemoteFile, path: Path, /) -> Wanted: ...

    def get(self, url: str, request_headers: dict[str, str], /) -> AbstractContextManager[Any]: ...


def _registry(repo: str) -> Registry:
    """The hub, or the plain directory that plays it; both have the same functions."""

    from robustctl.hub import client

    return plain_directory if repo.startswith(FILE) else client


def fetch_dataset(repo: str, split: str | None = None, revision: str | None = None) -> Path:
    """Fetch the parquet files of a hub data set (of one split, if given), with the checks of ``pull``.

    The path of a file tells its split, as in a local folder. A data set without parquet files has those that the hub
    itself made of it.

    Args:
        revision: a branch, a tag or a commit; None is the newest commit.

    Returns:
        The folder that holds them in the hub's own layout.

    Raises:
        RequestError: no such data set, or it has no parquet files of the split; its splits are listed.
        RunError: as ``pull``.
    """
    from robustctl.hub import client

    if split is not None and not SPLIT.fullmatch(split):
        raise RequestError(f"--split {split!r} is no name of a split, such as train or test")
    here = fetched_dataset(repo, split, revision)
    if here is not None and (client.is_offline() or COMMIT.fullmatch(revision or "")):
        return here
    commit, files = _dataset_files(repo, revision)
    chosen = [file for file, of in files if split in (None, of)]
    if not chosen:
        splits = ", ".join(sorted({of for _, of in files}))
        raise RequestError(f"data set {repo} has no split {split!r}; its splits: {splits}")
    name = f"{commit}-{split}" if split else commit
    directory = home() / "datasets" / repo / name
    with _locked(directory):
        if not directory.is_dir():
            want = partial(client.wanted, repo, commit, kind="dataset")
            _fetch(repo, chosen, directory, want, client.get).replace(directory)
    write_text(_made(_dataset_ref(repo, split, revision)), name)
    return directory


def fetch_dataset_file(repo: str, path: str, revision: str | None = None) -> Path:
    """Fetch one file of a hub data set, with the checks of ``pull``; a file that is here already is taken as it is.

    Args:
        path: inside the repo, e.g. ``cifar10/1m.npz``.
        revision: a branch, a tag or a commit; None is the newest commit.

    Raises:
        RequestError: no such data set or no such file.
        RunError: as ``pull``.
    """
    from robustctl.hub import client

    ref = _dataset_ref(repo, f"file-{quote(path, safe='')}", revision)
    if (
        ref.is_file()
        and (here := home() / "datasets" / repo / ref.read_text(encoding="utf-8").strip() / path).is_file()
    ):
        return here
    commit, files = client.list_files(repo, revision or "main", "dataset")
    chosen = [file for file in files if file.path == path]
    if not chosen:
        raise unknown(f"file of the data set {repo}", path, [file.path for file in files])
    directory = home() / "datasets" / repo / f"{commit}-{quote(path, safe='')}"
    with _locked(directory):
        if not directory.is_dir():
            want = partial(client.wanted, repo, commit, kind="dataset")
            _fetch(repo, chosen, directory, want, client.get).replace(directory)
    write_text(_made(ref), directory.name)
    return directory / path


def fetched_dataset(repo: str, split: str | None = None, revision: str | None = None) -> Path | None:
    """The folder that ``fetch_dataset`` fetched for the same request; None if there is none here."""
    folder, ref = home() / "datasets" / repo, _dataset_ref(repo, split, revision)
    names = [ref.read_text(encoding="utf-8").strip()] if ref.is_file() else [f"{revision}-{split}"]
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def commit_of(directory: Path) -> str:
    """The commit of a fetched data set, from the name of its folder."""
    return directory.name.partition("-")[0]


def _dataset_ref(repo: str, split: str | None, revision: str | None) -> Path:
    """The file with the name of the folder that a request was answered with."""
    at = f"@{quote(revision, safe='')}" if revision else ""
    return home() / "datasets" / repo / "refs" / f"{split or 'all'}{at}"


def _dataset_files(repo: str, asked: str | None) -> tuple[str, list[tuple[RemoteFile, str]]]:
    """The commit, and the parquet files with the split of each."""
    from robustctl.data.parquet import split_of
    from robustctl.hub import client

    for revision in (asked,) if asked else ("main", CONVERTED):
        try:
            commit, files = client.list_files(repo, revision, "dataset")
        except RequestError:
            if revision != CONVERTED or asked:
                raise
            break
        places = [(file, split_of(PurePosixPath(file.path))) for file in files]
        if found := [(file, place[1]) for file, place in places if place]:
            return commit, found
    raise RequestError(f"data set {repo} has no parquet files; fetch it yourself and name its folder")


def _is_ours(path: str) -> bool:
    """The files that ``push`` writes; nothing else is fetched."""
    small = (CONFIG, INDEX, "README.md", "recipe.yaml", EVAL_RESULTS)
    return path in small or _is_weights(path) or any(kind.fullmatch(path) for kind in (RECORD, WITNESSES))


def _is_weights(path: str) -> bool:
    return path == WEIGHTS or SHARD.fullmatch(path) is not None


def _check_sizes(repo: str, files: list[RemoteFile], small: list[RemoteFile]) -> None:
    if len(files) > MAX_FILES:
        raise RequestError(f"{repo} has {len(files)} files of a model, more than {MAX_FILES}; nothing was fetched")
    if (total := sum(file.size for file in files if WITNESSES.fullmatch(file.path))) > ALL_WITNESSES:
        raise RequestError(f"{repo} has {total} bytes of witnesses, more than {ALL_WITNESSES}; nothing was fetched")
    small = [file for file in small if not WITNESSES.fullmatch(file.path)]
    for file in small:
        if file.size > SMALL:
            raise RequestError(f"{repo}: {file.path} has {file.size} bytes, more than {SMALL}; nothing was fetched")
    if (total := sum(file.size for file in small)) > ALL_SMALL:
        raise RequestError(f"{repo} has {total} bytes beside its weights, more than {ALL_SMALL}; nothing was fetched")


def _check_spec(repo: str, spec: ModelSpec, weights: int) -> None:
    """Before weights are fetched: is the architecture one of ours, and can it have so many bytes?"""
    family = spec.architecture.name.partition("/")[0]
    if spec.architecture.code is None and family not in names("robustctl.architectures"):
        raise RequestError(f"{repo}: {unknown('architecture', family, names('robustctl.architectures'))}")
    if weights <= UNQUESTIONED:
        return
    from robustctl.architectures import empty_copy

    empty = empty_copy(spec)
    largest = 8 * sum(tensor.numel() for tensor in empty.state_dict().values()) + SMALL if empty else MAX_NAMED
    if weights > largest:
        raise RequestError(f"{repo} has weights of {weights} bytes; its {CONFIG} describes at most {largest}")


def _fetch(
    repo: str, files: list[RemoteFile], directory: Path, want: Callable[[RemoteFile, Path], Wanted], get: Get
) -> Path:
    """Fetch and verify files into a staging folder beside ``directory``; what an earlier attempt left is continued."""
    staging = _staging(directory)
    megabytes = sum(file.size for file in files) / 1e6
    with progress(f"{repo} (MB)", round(megabytes)) as advance:
        meter = Megabytes(advance)
        for file in files:
            target = _made(staging / file.path)
            if not target.is_file():
                download(want(file, target), get, meter)
    return staging


def _drop_beginnings(directory: Path) -> None:
    """Delete what interrupted pulls of other commits left: nobody would go on with it."""
    for other in directory.parent.glob(f".*{PART}"):
        if other != _staging(directory):
            remove_tree(other)


def _staging(directory: Path) -> Path:
    """Where a pull makes a directory; what it left there when it was interrupted is continued."""
    return directory.with_name(f".{directory.name}{PART}")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time fetches a directory; the others wait and find it there."""
    make_folder(directory.parent)
    with held(directory.with_name(f".{directory.name}.lock"), f"{directory} is being fetched by another process"):
        yield


def _made(path: Path) -> Path:
    """The path, with its parent directory made."""
    make_folder(path.parent)
    return path
