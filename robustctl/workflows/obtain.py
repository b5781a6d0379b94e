"""Obtains a model by name: finds it, and fetches what is not here yet."""

from collections.abc import Sequence
from pathlib import Path

from robustctl.errors import RequestError
from robustctl.hub.names import FILE, REPO_ID
from robustctl.models import fetch
from robustctl.models import pull as pulling
from robustctl.models.find import (
    FoundModel,
    entry_files,
    entry_weights,
    find_model,
    pulled_directory,
    read_entry,
    split_revision,
)


def obtain(name: str, *, pull: bool = False) -> FoundModel:
    """Find a model, and fetch the weights of an entry if they are not here yet.

    Args:
        name: what ``robustctl.models.find.find_model`` takes.
        pull: also pull a repo that is not here yet; without, such a repo is an error that says how to pull it.

    Raises:
        RequestError: no such model, or it is damaged.
        RunError: it could not be fetched.
    """
    repo, revision = split_revision(name)
    remote = repo.startswith(FILE) or (REPO_ID.fullmatch(repo) is not None and not Path(name).exists())
    if pull and remote and name not in entry_files() and pulled_directory(repo, revision) is None:
        pulling.pull(repo, revision)
    found_model = find_model(name)
    if found_model.entry is not None and not found_model.weights.is_file():
        fetch.fetch_entry(name, found_model.entry)
    return found_model


def bring(
    name: str,
    *,
    keep_original: bool = False,
    at: str | None = None,
    strip: str | None = None,
    drop: Sequence[str] | None = None,
) -> Path:
    """Bring a model here, as ``robustctl pull`` does: pinned to a commit, every file checked.

    Args:
        name: an entry, ``USER/NAME[@REVISION]`` or ``file:///path``.
        keep_original: keep the published file of an entry beside the converted one.
        at, strip, drop: what the entry's key rules should say, if the published file differs from them.

    Returns:
        The weights of an entry, the directory of a repo.

    Raises:
        RequestError: no such model, or it is not a model of robustctl.
        RunError: the network, the disk, or bytes that do not match their hashes; the same call continues.
    """
    if name in entry_files():
        entry = read_entry(name)
        if (at is not None or strip is not None or drop) and entry_weights(name).is_file():
            raise RequestError(
                f"the weights of {name} are here already; robustctl models remove {name} lets you try again"
            )
        said = entry.model_copy(update={"keys": entry.keys.changed(at, strip, drop)})
        return fetch.fetch_entry(name, said, keep_original)
    if at is not None or strip is not None or drop:
        raise RequestError(f"--at, --strip and --drop are for entries of the registry; {name} is none")
    if "/" not in name:
        read_entry(name)  # says which name is near
    return pulling.pull(*split_revision(name))
