"""Finds the model that a user names. No torch here.

Under ``home()``: ``entries/NAME.yaml`` are the user's own entries, ``weights/NAME.safetensors`` the weights of entries
(``NAME.json`` beside them names their source), ``hub/USER/NAME/COMMIT/`` the pulled repos.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.files import make_folder
from robustctl.home import home as home
from robustctl.hub.names import FILE, REPO_ID, REVISION
from robustctl.locks import held
from robustctl.models import entry as entries
from robustctl.models.entry import Entry
from robustctl.reading import read_json
from robustctl.spec import CONFIG, WEIGHTS, ModelSpec, read_spec

BUNDLED = Path(__file__).parent
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class FoundModel:
    """A model that is here.

    Attributes:
        name: as the user says it, without the path of a directory.
        weights: its safetensors file (or the index of its shards).
        spec: how to build it.
        entry: the registry entry, if the model is one.
        licence: hub identifier; None if nobody has said it.
    """

    name: str
    weights: Path
    spec: ModelSpec
    entry: Entry | None = None
    licence: str | None = None


def entry_files() -> dict[str, Path]:
    """Every entry's file by name. A user's own entry hides a bundled one of the same name."""
    folders = (BUNDLED / "entries", home() / "entries")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def read_entry(name: str) -> Entry:
    """Read the entry called ``name``, or raise RequestError with the nearest name and the list."""
    files = entry_files()
    if name not in files:
        raise unknown("model", name, [*files, *pulled()])
    return entries.read(files[name])


def entry_weights(name: str) -> Path:
    """Where the weights of an entry are, or will be once they are fetched."""
    bundled = BUNDLED / "weights" / f"{name}.safetensors"
    own = home() / "entries" / f"{name}.yaml"
    return bundled if bundled.is_file() and not own.is_file() else home() / "weights" / f"{name}.safetensors"


def find_model(text: str) -> FoundModel:
    """Find a model by what the user wrote. Nothing is fetched; ``workflows.obtain`` does that.

    The weights of an entry need not be here yet.

    Args:
        text: an entry's name, the id of a pulled repo (``user/name``, ``user/name@revision``), or a directory with
            ``config.json`` and ``model.safetensors`` (a finished run is one), or another safetensors file of such a
            directory (``RUN/best.safetensors``, which is then called ``RUN/best``).

    Raises:
        RequestError: no such model, or it is damaged.
    """
    if text in entry_files():
        return _from_entry(text)
    if Path(text).is_dir():
        return _from_directory(Path(text), Path(text).resolve().name)
    if text.endswith(SUFFIX) and (Path(text).parent / CONFIG).is_file():
        return _from_file(Path(text))
    repo, revision = split_revision(text)
    if (directory := pulled_directory(repo, revision)) is not None:
        return _from_directory(directory, text)
    if text.startswith(FILE) or (REPO_ID.fullmatch(repo) and not Path(text).exists()):
        raise RequestError(f"model {text!r} is neither a directory nor a pulled repo; fetch it: robustctl pull {text}")
    if Path(text.partition(":")[0]).suffix == ".py":
        raise RequestError(f"model {text!r} is code, which runs only if it is named as such: --model-code {text!r}")
    if Path(text).exists():
        raise RequestError(f"model {text!r} is a file; register it first: robustctl models import {text} --name ...")
    raise unknown("model", text, [*entry_files(), *pulled()])


def split_revision(text: str) -> tuple[str, str]:
    """Repo and revision of ``user/name@revision``; a plain directory has no revisions, and its path may hold ``@``."""
    repo, _, revision = text.partition("@") if not text.startswith(FILE) else (text, "", "")
    return repo, revision or "main"


def pulled() -> list[str]:
    """Ids of the pulled repos, with ``@revision`` if it is not ``main``."""
    found = []
    for ref in sorted((home() / "hub").glob("*/*/refs/[!.]*")):
        owner, name, revision = ref.parts[-4], unquote(ref.parts[-3]), unquote(ref.name)
        repo = FILE + name if owner == "_file" else f"{owner}/{name}"
        found.append(repo if revision == "main" else f"{repo}@{revision}")
    return found


def repo_home(repo: str) -> Path:
    """Directory of a pulled repo: its commits, and ``refs/`` with the commit that each pulled revision was."""
    if repo.startswith(FILE):
        return home() / "hub" / "_file" / quote(repo.removeprefix(FILE), safe="")
    return home() / "hub" / repo


@contextmanager
def changing(name: str) -> Iterator[None]:
    """Let no other process import, fetch, pull or remove the model or repo ``name`` while the block runs.

    It waits its turn. The lock lies outside of what is removed.
    """
    lock = home() / "locks" / f"{quote(name, safe='')}.lock"
    make_folder(lock.parent)
    with held(lock, f"model {name!r} is being changed by another process"):
        yield


def ref_file(repo: str, revision: str) -> Path:
    """The file that holds the commit which ``revision`` was when it was pulled."""
    return repo_home(repo) / "refs" / quote(revision, safe="")


def pulled_directory(repo: str, revision: str) -> Path | None:
    """Where a pulled revision (branch, tag or commit) lies, or None."""
    if not (repo.startswith(FILE) or REPO_ID.fullmatch(repo)) or not REVISION.fullmatch(revision):
        return None
    ref = ref_file(repo, revision)
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    directory = repo_home(repo) / quote(commit, safe="")
    return directory if (directory / CONFIG).is_file() else None


def _from_entry(name: str) -> FoundModel:
    entry = read_entry(name)
    return FoundModel(name, entry_weights(name), entry.spec, entry, entry.licence)


def _from_directory(directory: Path, name: str) -> FoundModel:
    return FoundModel(name, directory / WEIGHTS, read_spec(directory), licence=_licence(directory))


def _from_file(weights: Path) -> FoundModel:
    if not weights.is_file():
        raise RequestError(f"no weights at {weights}")
    directory = weights.resolve().parent
    name = f"{directory.name}/{weights.name.removesuffix(SUFFIX)}"
    return replace(_from_directory(directory, name), weights=weights)


def _licence(directory: Path) -> str | None:
    """The licence that the run's record names, else the model card."""
    from robustctl.models.licence import licence_of

    record = directory / "run.json"
    if not record.is_file():
        return licence_of(directory / "README.md")
    try:
        licence = read_json(record).get("licence")
    except (RequestError, OSError, AttributeError):
        return None
    return licence if isinstance(licence, str) else None
