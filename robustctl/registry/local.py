"""The user's own entries and the weights that are here: import, remove, records and their checks. No torch here."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from robustctl import __version__
from robustctl.errors import RequestError
from robustctl.files import write_text, writing
from robustctl.registry import entry as entries
from robustctl.registry.convert import convert
from robustctl.registry.entry import Entry, KeyRules, check_name
from robustctl.registry.folder import fault_in, sha256
from robustctl.registry.locate import (
    BUNDLED,
    entry_files,
    entry_weights,
    home,
    pulled,
    pulled_directory,
    repo_home,
)
from robustctl.standards import STANDARDS

# (channels, height, width) and classes of the data sets that need no options; the others stand in ``standards``.
SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "cifar100": ((3, 32, 32), 100),
    "imagenet": ((3, 224, 224), 1000),
    "svhn": ((3, 32, 32), 10),
} | {name: (standard.input_shape, standard.n_classes) for name, standard in STANDARDS.items()}


class Record(BaseModel):
    """Beside an entry's weights: what they are and where they came from.

    Attributes:
        sha256: of the safetensors file here.
        source: the place it was made from, or the name of the imported file.
        source_sha256, source_size: of that file; the first download's are binding ever after.
    """

    sha256: str
    source: str
    source_sha256: str
    source_size: int


def record_file(name: str) -> Path:
    """Where the record of an entry's weights is."""
    return home() / "weights" / f"{name}.json"


def read_record(name: str) -> Record | None:
    """The record of an entry's weights, or None where there is none."""
    path = record_file(name)
    try:
        return Record.model_validate_json(path.read_text()) if path.is_file() else None
    except ValidationError:
        raise RequestError(f"{path} is damaged; remove it together with the weights: models remove {name}") from None


def write_record(name: str, source: str, published: Path) -> None:
    """Record the weights of an entry that have just been made from ``published``."""
    record = Record(
        sha256=sha256(entry_weights(name)),
        source=source,
        source_sha256=sha256(published),
        source_size=published.stat().st_size,
    )
    write_text(record_file(name), record.model_dump_json(indent=2) + "\n")


def new_name(name: str) -> str:
    """Return ``name`` if a new entry may take it, else raise RequestError."""
    if check_name(name) in entry_files():
        raise RequestError(f"model {name!r} exists already; choose another --name, or robustctl models remove {name}")
    return name


def add(name: str, entry: Entry) -> Path:
    """Make an entry of the user's own; its weights are fetched when they are needed."""
    path = home() / "entries" / f"{new_name(name)}.yaml"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    entries.write(entry, path)
    return path


def import_model(name: str, source: Path, entry: Entry, keys: KeyRules) -> Entry:
    """Convert a file of the user's into the weights of a new entry.

    Raises:
        RequestError: the name is taken, or the file is damaged or does not fit; nothing is left behind.
    """
    new_name(name)
    weights = home() / "weights" / f"{name}.safetensors"
    answer = convert(source, weights, entry.spec, keys, detect=True)
    provenance = {"file": source.name, "file_sha256": sha256(source), "robustctl": __version__}
    keys = keys.model_copy(update={"at": answer.at})
    entry = entry.model_copy(
        update={"keys": keys, "parameters": answer.parameters, "provenance": provenance | entry.provenance}
    )
    add(name, entry)
    write_record(name, source.name, source)
    return entry


def remove(name: str) -> list[Path]:
    """Delete what is here of a model: an own entry and its weights, fetched weights, or a pulled repo.

    Returns:
        The paths that were deleted.

    Raises:
        RequestError: nothing of that name can be removed.
    """
    files = [home() / "entries" / f"{name}.yaml", home() / "weights" / f"{name}.safetensors", record_file(name)]
    is_name = entries.NAME.fullmatch(name) is not None  # and not a path out of these folders
    found = [path for path in files if is_name and path.is_file()]
    repo = repo_home(name.partition("@")[0])
    if not found and name in pulled():
        with writing(repo):
            shutil.rmtree(repo)
        return [repo]
    if not found and name in entry_files():
        raise RequestError(f"model {name!r} has no weights here, and bundled entries stay")
    if not found:
        raise RequestError(f"model {name!r} is not here; robustctl models list --here shows what is")
    if (BUNDLED / "entries" / f"{name}.yaml").is_file():
        found = [path for path in found if path != record_file(name)]  # the first download's hash binds later ones
    for path in found:
        with writing(path):
            path.unlink()
    return found


def verify_weights(only: str | None) -> Iterator[tuple[str, str | None]]:
    """Hash the models that are here (one, if given); yields each name with its fault, or None."""
    for name in [only] if only else entry_files():
        weights = entry_weights(name)
        if weights.is_file() and not weights.is_relative_to(BUNDLED):
            record = read_record(name)
            same = record is not None and record.sha256 == sha256(weights)
            yield name, None if same else f"{weights} is not what was fetched"
    for repo in pulled():
        name, _, revision = repo.partition("@")
        directory = pulled_directory(name, revision or "main")
        if directory is not None and only in (None, repo):
            yield repo, fault_in(directory)
