"""The user's own entries and the weights that are here: import, remove, records and their checks. No torch here."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from robustctl.errors import RequestError
from robustctl.files import make_folder, write_text, writing
from robustctl.hub.plain_directory import fault_in, read_sums, sha256
from robustctl.models import entry as entries
from robustctl.models.convert import convert
from robustctl.models.entry import Entry, KeyRules, WeightsSource, check_name
from robustctl.models.find import (
    BUNDLED,
    changing,
    entry_files,
    entry_weights,
    home,
    pulled,
    pulled_directory,
    read_entry,
    ref_file,
    repo_home,
    split_revision,
)
from robustctl.models.safetensors_header import weights_sha256
from robustctl.spec import CONFIG
from robustctl.version import __version__

MAX_TOKENIZER_BYTES = 10_000_000


class Published(BaseModel):
    """A published file as it was when it was first taken."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int


class WeightsRecord(BaseModel):
    """The record beside an entry's weights: what they are and which source they came from.

    Attributes:
        sha256: of the safetensors file here.
        source: the place it was made from, or the name of the imported file.
        tokenizer: the place of a CLIP's tokenizer.
        files: every file that was ever taken for this entry, by its place; the first one of a place binds ever after.
    """

    sha256: str
    source: str
    tokenizer: str | None = None
    files: dict[str, Published]

    @model_validator(mode="after")
    def _knows_its_files(self) -> "WeightsRecord":
        if not {self.source, self.tokenizer or self.source} <= set(self.files):
            raise ValueError("the hash of its own source is missing")
        return self

    @property
    def source_sha256(self) -> str:
        """The hash of the file that the weights were made from."""
        return self.files[self.source].sha256


def record_file(name: str) -> Path:
    """Where the record of an entry's weights is."""
    return home() / "weights" / f"{name}.json"


def read_record(name: str) -> WeightsRecord | None:
    """The record of an entry's weights; None if there is none."""
    path = record_file(name)
    try:
        return WeightsRecord.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValidationError:
        raise RequestError(f"{path} is damaged; remove it together with the weights: models remove {name}") from None


def write_record(made: Path, name: str, source: tuple[str, Path], tokenizer: tuple[str, Path] | None = None) -> None:
    """Record the weights of an entry before they take their place: without a record nothing could check them.

    Args:
        made: the safetensors file.
        source: place and file of what it was made from.
        tokenizer: place and file of a CLIP's.

    Raises:
        RequestError: another file was taken from the same place before.
    """
    old = read_record(name)
    files = dict(old.files) if old else {}
    for place, path in filter(None, (source, tokenizer)):
        found = Published(sha256=sha256(path), size=path.stat().st_size)
        first = files.setdefault(place, found)
        if first != found:
            raise RequestError(
                f"{path} is not what was first taken from {place}: SHA-256 {found.sha256}, expected {first.sha256}"
            )
    record = WeightsRecord(sha256=sha256(made), source=source[0], tokenizer=tokenizer and tokenizer[0], files=files)
    write_text(record_file(name), record.model_dump_json(indent=2) + "\n")


def tokenizer_beside(path: Path, entry: Entry) -> Path | None:
    """The tokenizer that the user has put into the folder of a CLIP's weights; None if the entry needs none.

    Raises:
        RequestError: it is not there, too large, or not the published one.
    """
    if entry.zero_shot is None:
        return None
    source = entry.zero_shot.tokenizer
    tokenizer = path.with_name(PurePosixPath(source.file).name)
    if not tokenizer.is_file():
        raise RequestError(f"no file {tokenizer}; put {source.file} of {source} into the folder of {path.name}")
    if tokenizer.stat().st_size > MAX_TOKENIZER_BYTES:
        raise RequestError(f"{tokenizer} has more than {MAX_TOKENIZER_BYTES} bytes; it is no tokenizer")
    if source.sha256 and (found := sha256(tokenizer)) != source.sha256:
        raise RequestError(f"{tokenizer} is not the published file: its SHA-256 is {found}")
    return tokenizer


def new_name(name: str) -> str:
    """Return ``name`` if a new entry may take it, else raise RequestError."""
    if check_name(name) in entry_files():
        raise RequestError(f"model {name!r} exists already; choose another --name, or robustctl models remove {name}")
    return name


def add(name: str, entry: Entry) -> Path:
    """Make an entry of the user's own; its weights are fetched when they are needed."""
    path = home() / "entries" / f"{new_name(name)}.yaml"
    make_folder(path.parent)
    entries.write(entry, path)
    return path


def import_model(name: str, source: Path, entry: Entry, keys: KeyRules, *, ask: bool = False) -> Entry:
    """Convert a file of the user's into the weights of a new entry.

    Args:
        ask: nobody has said whether images are normalised; refuse the file if they probably are.

    Raises:
        RequestError: the name is taken, or the file is damaged or does not fit; nothing is left behind.
        RunError: the disk is full; nothing is left behind.
    """
    new_name(name)
    with changing(name):  # and once more in there: another process may have taken the name in between
        return _import_alone(name, source, entry, keys, ask)


def _import_alone(name: str, source: Path, entry: Entry, keys: KeyRules, ask: bool) -> Entry:
    new_name(name)
    weights = home() / "weights" / f"{name}.safetensors"
    tokenizer = tokenizer_beside(source, entry)
    record = partial(
        write_record,
        name=name,
        source=(source.name, source),
        tokenizer=(tokenizer.name, tokenizer) if tokenizer else None,
    )
    with writing(record_file(name)):
        record_file(name).unlink(missing_ok=True)  # of an entry of this name that is gone
    try:
        answer = convert(
            source,
            weights,
            entry.spec,
            keys,
            detect=True,
            zero_shot=entry.zero_shot,
            tokenizer=tokenizer,
            ask=ask,
            record=record,
        )
        provenance = {"file": source.name, "file_sha256": sha256(source), "robustctl": __version__}
        keys = keys.model_copy(update={"at": answer.at})
        entry = entry.model_copy(
            update={"keys": keys, "parameters": answer.parameters, "provenance": provenance | entry.provenance}
        )
        add(name, entry)
    except BaseException:
        for path in (weights, record_file(name)):
            path.unlink(missing_ok=True)
        raise
    return entry


def staging_of(name: str) -> Path:
    """Where an interrupted download of an entry waits for the same command."""
    return home() / "weights" / f".{name}"


def kept_original(name: str, source: WeightsSource) -> Path:
    """Where the published file of an entry is kept, if the user wants it."""
    return home() / "weights" / f"{name}-{PurePosixPath(source.file).name}"


def remove(name: str) -> list[Path]:
    """Delete what is here of a model: an own entry and its weights, fetched weights, or one revision of a pulled repo.

    Kept originals and interrupted downloads of an entry go with it.

    Returns:
        The paths that were deleted.

    Raises:
        RequestError: nothing of that name can be removed.
    """
    repo, revision = split_revision(name)
    if name not in entry_files() and (repo if revision == "main" else f"{repo}@{revision}") in pulled():
        return _remove_pulled(repo, revision)
    if entries.NAME.fullmatch(name) is None:  # perhaps a path out of these folders
        raise RequestError(f"model {name!r} is not here; robustctl models list --here shows what is")
    with changing(name):
        return _remove_entry(name)


def _remove_entry(name: str) -> list[Path]:
    found = [path for path in _paths_of(name) if path.exists()]
    if not found and name in entry_files():
        raise RequestError(f"model {name!r} has no weights here, and bundled entries stay")
    if not found:
        raise RequestError(f"model {name!r} is not here; robustctl models list --here shows what is")
    for path in found:
        with writing(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def _paths_of(name: str) -> list[Path]:
    """Everything that may be here of an entry, but for the record of a bundled one: its hashes bind later downloads."""
    paths = [home() / "entries" / f"{name}.yaml", home() / "weights" / f"{name}.safetensors", staging_of(name)]
    others = {entry_weights(other) for other in entry_files()}
    try:
        originals = {kept_original(name, source) for source in read_entry(name).sources}
        paths += sorted(originals - others)
        if (BUNDLED / "entries" / f"{name}.yaml").is_file():
            read_record(name)
            return paths
    except RequestError:  # a damaged entry or record can be removed all the same
        pass
    return [*paths, record_file(name)]


def _remove_pulled(repo: str, revision: str) -> list[Path]:
    """Forget a revision, and delete its commit unless another revision is the same; all of the repo with the last."""
    ref = ref_file(repo, revision)
    with changing(repo):
        return _forget(repo, revision, ref)


def _forget(repo: str, revision: str, ref: Path) -> list[Path]:
    if not ref.is_file():
        raise RequestError(f"model {repo!r} at {revision} is not here any more; another process removed it")
    commit = ref.read_text(encoding="utf-8").strip()
    others = {path.read_text(encoding="utf-8").strip() for path in ref.parent.glob("[!.]*") if path != ref}
    gone = repo_home(repo) if not others else repo_home(repo) / quote(commit, safe="")
    with writing(gone):
        ref.unlink()  # first: whatever stops the rest, no name leads to half a model
        if commit not in others and gone.is_dir():
            shutil.rmtree(gone)
    return [ref if commit in others else gone]


def verify_weights(only: str | None) -> Iterator[tuple[str, str | None]]:
    """Hash the models that are here (one, if given); yields each name with its fault, or None."""
    for name in [only] if only else entry_files():
        weights = entry_weights(name)
        if weights.is_file():
            yield name, _fault_of_entry(name, weights)
    for repo in pulled():
        directory = pulled_directory(*split_revision(repo))
        if directory is not None and only in (None, repo):
            yield repo, fault_in(directory) or _unlisted(directory)


def _fault_of_entry(name: str, weights: Path) -> str | None:
    """The fault of an entry's weights by their record; weights of the package are compared with the entry itself."""
    try:
        if weights.is_relative_to(BUNDLED):
            same = weights_sha256(weights) == read_entry(name).provenance.get("weights_sha256")
        else:
            record = read_record(name)
            same = record is not None and record.sha256 == sha256(weights)
    except RequestError as error:
        return str(error)
    return None if same else f"{weights} is not what was fetched"


def _unlisted(directory: Path) -> str | None:
    """Nothing says what the files of a pulled repo were, if its list of hashes is gone or lacks one."""
    listed = read_sums(directory)
    needed = [directory / CONFIG, *directory.glob("*.safetensors")]
    found = [path.name for path in needed if path.name not in listed]
    return f"{directory}: no hash is known of {', '.join(found)}" if found else None
