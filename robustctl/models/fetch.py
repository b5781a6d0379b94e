"""Brings the weights of registry entries from the places where their authors published them, and converts them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from robustctl.errors import RequestError, RobustctlError, RunError
from robustctl.files import make_folder
from robustctl.hub.download import (
    MAX_BYTES,
    Changed,
    Gone,
    RemoteFile,
    Resized,
    Wanted,
    download,
    fault_of,
    probe,
    retried,
)
from robustctl.hub.plain_directory import sha256
from robustctl.models.convert import convert
from robustctl.models.entry import Entry, KeyRules, WeightsSource
from robustctl.models.find import changing, entry_weights
from robustctl.models.shelf import (
    MAX_TOKENIZER_BYTES,
    WeightsRecord,
    kept_original,
    read_record,
    staging_of,
    tokenizer_beside,
    write_record,
)
from robustctl.progress import Megabytes, progress

ListFiles = Callable[[str, str], tuple[str, list[RemoteFile]]]
"""Commit and files of a repo at a revision, as ``hub.client.list_files`` gives them."""


def fetch_entry(name: str, entry: Entry, keep_original: bool = False) -> Path:
    """Bring and convert an entry's weights, from the first of its sources that works.

    Args:
        entry: it may have other ``keys`` than the registry's, if the published file differs from what is said there.
        keep_original: keep the published file beside the weights instead of deleting it.

    Returns:
        The safetensors file.

    Raises:
        RunError: no source works; the message says why not, and how to bring the file by hand.
    """
    weights = entry_weights(name)
    make_folder(weights.parent)
    with changing(name):
        if weights.is_file():
            return weights
        if entry.zero_shot and find_spec("transformers") is None:  # said before the download, not after
            raise RequestError(f"model {name} is a CLIP and needs transformers: pip install 'robustctl[clip]'")
        faults = []
        by_hand = entry.zero_shot is not None and entry.zero_shot.tokenizer.page is not None
        for source in entry.sources:
            if source.page is None and not by_hand:
                try:
                    return _fetch(name, entry, source, keep_original)
                except RobustctlError as error:
                    faults.append(str(error) if str(source) in str(error) else f"{source}: {error}")
    raise RunError(f"model {name}: its weights are not here\n  " + "\n  ".join([*faults, *_by_hand(name, entry)]))


def bring(name: str, entry: Entry, path: Path, keys: KeyRules) -> Path:
    """Take the weights of an entry from a file that the user has downloaded; ``keys`` as the entry or the user says.

    Raises:
        RequestError: the file is not the published one, or damaged.
    """
    if not path.is_file():
        raise RequestError(f"no file {path}")
    with changing(name):
        place = _place(name, entry, path)
        weights = entry_weights(name)
        tokenizer = tokenizer_beside(path, entry)
        of_tokenizer = (entry.zero_shot.tokenizer.place, tokenizer) if entry.zero_shot and tokenizer else None
        convert(
            path,
            weights,
            entry.spec,
            keys,
            detect=True,
            zero_shot=entry.zero_shot,
            tokenizer=tokenizer,
            record=partial(write_record, name=name, source=(place, path), tokenizer=of_tokenizer),
        )
    return weights


def _place(name: str, entry: Entry, path: Path) -> str:
    """The source of a file brought by hand: the one that has its hash, else one whose hash nobody knows yet.

    Raises:
        RequestError: there is no such source.
    """
    found = sha256(path)
    record = read_record(name)
    firsts = {place: file.sha256 for place, file in record.files.items()} if record else {}
    known = {source.place: source.sha256 or firsts.get(source.place) for source in entry.sources}
    if record and not entry.sources:  # an import of the user's own, whose weights are gone
        known = {record.source: record.source_sha256}
    same = [place for place, digest in known.items() if digest == found]
    by_hand_first = sorted(entry.sources, key=lambda source: source.page is None)
    open_ = [source.place for source in by_hand_first if known[source.place] is None]
    if not same and known and (not open_ or any(source.sha256 for source in entry.sources)):
        raise RequestError(f"{path} is not the published file of {name}: its SHA-256 is {found}")
    return next(iter([*same, *open_, path.name]))


def _by_hand(name: str, entry: Entry) -> list[str]:
    """The lines that say which file to download from which page, and what to type then."""
    also = ""
    if entry.zero_shot:
        tokenizer = entry.zero_shot.tokenizer
        also = f" and, into the same folder, {tokenizer.file} from {tokenizer.page or tokenizer}"
    return [
        f"bring the file: download {source.file} from {source.page or source}{also}, "
        f"then: robustctl models import PATH/{Path(source.file).name} --name {name}"
        for source in entry.sources
    ] or ["the entry names no source"]


def _fetch(name: str, entry: Entry, source: WeightsSource, keep_original: bool) -> Path:
    """One source: download, check against the entry or the first download, convert, record.

    A file that does not convert, and whose hash nobody knows, is deleted: the next download may be another one.
    """
    weights = entry_weights(name)
    staging = staging_of(name)
    staging.mkdir(exist_ok=True)
    tokenizer = None
    if entry.zero_shot:
        tokenizer = _download(name, entry.zero_shot.tokenizer, staging / "tokenizer.json", MAX_TOKENIZER_BYTES)
    published = _download(name, source, staging / Path(source.file).name)
    of_tokenizer = (entry.zero_shot.tokenizer.place, tokenizer.path) if entry.zero_shot and tokenizer else None
    try:
        convert(
            published.path,
            weights,
            entry.spec,
            entry.keys,
            zero_shot=entry.zero_shot,
            tokenizer=tokenizer.path if tokenizer else None,
            record=partial(write_record, name=name, source=(source.place, published.path), tokenizer=of_tokenizer),
        )
    except RequestError:
        for file in filter(None, (published, tokenizer)):
            if not file.hashed:
                file.path.unlink()
        raise
    if keep_original:
        published.path.replace(kept_original(name, source))
    shutil.rmtree(staging)
    return weights


def _download(name: str, source: WeightsSource, path: Path, limit: int = MAX_BYTES) -> Wanted:
    """Bring one file of an entry to ``path``, unless it is there already; returns what was asked for."""
    from robustctl.hub import client

    wanted = _wanted(source, path, read_record(name), limit)
    if not path.is_file() or fault_of(wanted, path):  # an earlier command may have got this far
        with progress(f"{name} (MB)", wanted.size and round(wanted.size / 1e6)) as advance:
            meter = Megabytes(advance)
            download(wanted, client.get, meter, meter.announce)
    return wanted


def _wanted(
    source: WeightsSource,
    path: Path,
    record: WeightsRecord | None,
    limit: int = MAX_BYTES,
    list_files: ListFiles | None = None,
) -> Wanted:
    """The file to download; if the entry lacks its hash, the first download's is taken."""
    from robustctl.hub import client

    first = record.files.get(source.place) if record else None
    digest = source.sha256 or (first.sha256 if first else None)
    size = source.size or (first.size if first else None)
    if source.url:
        return Wanted(source.url, path, size, digest, limit=limit)
    commit, there = on_hub(source, list_files)
    for what, expected, found in (("size", size, there.size), ("SHA-256", digest, there.sha256)):
        if expected is not None and found is not None and expected != found:
            raise Changed(f"{source}: its {what} is {found} on the hub now, expected {expected}")
    if there.size > limit:
        raise RequestError(f"{source} has {there.size} bytes, more than {limit}")
    return replace(client.wanted(str(source.repo), commit, there, path), sha256=there.sha256 or digest)


def on_hub(source: WeightsSource, list_files: ListFiles | None = None) -> tuple[str, RemoteFile]:
    """The commit and the metadata of a hub source; raises RequestError if the file is gone."""
    from robustctl.hub import client

    assert source.repo and source.revision  # the entry's own check
    commit, files = (list_files or client.list_files)(source.repo, source.revision)
    found = [file for file in files if file.path == source.file]
    if not found:
        raise Gone(f"{source.repo} has no file {source.file} at {source.revision}")
    return commit, found[0]


def asked_once() -> ListFiles:
    """A ``hub.client.list_files`` that asks about a repo only once, even if the answer is an error."""
    from robustctl.hub import client

    answers: dict[tuple[str, str], tuple[str, list[RemoteFile]] | RobustctlError] = {}

    def list_files(repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
        if (repo, revision) not in answers:
            try:
                answers[repo, revision] = client.list_files(repo, revision)
            except RobustctlError as error:
                answers[repo, revision] = error
        answer = answers[repo, revision]
        if isinstance(answer, RobustctlError):
            raise answer
        return answer

    return list_files


class Asked(NamedTuple):
    """The answer of a source of an entry. ``fault`` is the message if something is wrong with it, else None."""

    source: WeightsSource
    state: Literal["answers", "by hand", "changed", "gone", "refused", "no answer"]
    fault: str | None = None


def check_sources(entry: Entry, name: str, list_files: ListFiles) -> list[Asked]:
    """Ask every source of an entry about its file without fetching it.

    A source that is a page for people is not asked (``by hand``). ``changed`` is another size or hash than the entry's
    or the first download's, ``gone`` a repo without the file or an address without anything.
    """
    record = read_record(name)
    return [_asked(source, record, list_files) for source in entry.files]


def _asked(source: WeightsSource, record: WeightsRecord | None, list_files: ListFiles) -> Asked:
    from robustctl.hub import client

    if source.page:
        return Asked(source, "by hand")
    try:
        wanted = _wanted(source, Path(source.file), record, list_files=list_files)
        if source.url:
            retried(str(wanted), partial(probe, wanted, client.get))
    except (Changed, Resized) as error:
        return Asked(source, "changed", str(error))
    except Gone as error:
        return Asked(source, "gone", str(error))
    except RequestError as error:
        return Asked(source, "refused", str(error))
    except RobustctlError as error:
        return Asked(source, "no answer", str(error))
    return Asked(source, "answers")
