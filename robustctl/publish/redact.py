"""Makes results fit to leave this machine: names in the place of local paths, hub ids only for what is on the hub, no
secrets."""

import getpass
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustctl.conventions import CONVENTIONS
from robustctl.hub.names import REPO_ID
from robustctl.models.find import home
from robustctl.results.union import UnionResult

# Data sets of the registry's entries and of --data, as the hub knows them.
HUB_DATASETS = {name: convention.source for name, convention in CONVENTIONS.items() if "/" in convention.source} | {
    "cifar100": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
    "svhn": "ufldl-stanford/svhn",
}
BUILT_IN = {convention.source for convention in CONVENTIONS.values() if "/" not in convention.source}
LOCAL = "local data"
TOKEN = "a hub token"

_NEXT = r"(?:/|\\+)"  # between two parts; YAML doubles backslashes
_FOLDERS = rf"(?:[\w.@+%~ -]+{_NEXT})"
_RELATIVE = rf"(?:~\w*|\.{{1,2}}){_NEXT}(?:[\w.@+%~-]+{_NEXT})*"  # without spaces: "../x at 8/255" goes on after it
_ABSOLUTE = rf"\\{{2,}}{_FOLDERS}*|(?:[A-Za-z]:)?{_NEXT}{_FOLDERS}+"
# In running text: a web address (kept), else everything of a path but its last part. 8/255 and a/b/c are no paths.
_PATH = re.compile(
    rf"\b(?P<web>https?://\S+)|(?:\bfile:/+{_FOLDERS}*|(?<![\w./<\\-])(?:{_RELATIVE}|{_ABSOLUTE}))(?=[\w.@+-])"
)
_BEGINS_LIKE_A_PATH = re.compile(r"file://|[/\\]|(?:~\w*|\.{1,2}|[A-Za-z]:)[/\\]")


def hub_dataset(source: str) -> str | None:
    """The hub id of a data set that was named so and that came from there; None for local images, however called."""
    if not REPO_ID.fullmatch(source) or Path(source).exists():
        return None
    known = source in HUB_DATASETS.values() or (home() / "datasets" / source / "refs").is_dir()
    return source if known else None


def data_names(sources: Iterable[str]) -> dict[str, str]:
    """Public names of data sources: hub ids and data sets of the package stay, all others become local data.

    Different sources keep different names, so that their results are not taken for results on the same images.
    """
    names: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        name = source if hub_dataset(source) or source in BUILT_IN else f"{LOCAL} {last_part(source)}"
        taken = sum(other.partition(" #")[0] == name for other in names.values())
        names[source] = f"{name} #{taken + 1}" if taken else name
    return names


def published(result: UnionResult, names: Mapping[str, str]) -> UnionResult:
    """An evaluation as it may be read by anybody; ``names`` come from ``data_names``."""
    name = names[result.data.source]
    revision = result.data.revision if name == result.data.source else None
    data = result.data.model_copy(update={"source": name, "revision": revision})
    content = redacted(result.model_dump(mode="json", by_alias=True, exclude={"data"}))
    return UnionResult.model_validate({**content, "data": data})


def last_part(path: str) -> str:
    """The last part of a path of any system, without what is markup in a card; ``local`` if it shows the user."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    plain = re.sub(r"[^\w.@+ -]", "_", name)
    return "local" if plain in ("", ".", "..", Path.home().name, _user()) or name.startswith("~") else plain


def redact(text: str, paths: Iterable[str] = ()) -> str:
    """Cut local paths in running text down to their last part.

    Args:
        paths: what is known to be one, in whatever characters; cut wherever it stands.
    """
    for path in sorted(set(paths), key=len, reverse=True):
        text = re.sub(rf"(?<![\w./\\-]){re.escape(path)}(?![\w/\\-])", lambda found: last_part(found[0]), text)
    for place in _own_places():
        text = re.sub(rf"{re.escape(place)}(?![\w.-])", "~", text)
    return _PATH.sub(lambda found: found["web"] or "", text)


def redacted(content: Any, paths: Iterable[str] = ()) -> Any:
    """The same for every text in a JSON-like value; a text that begins like a path is one as a whole."""
    if isinstance(content, dict):
        return {key: redacted(value, paths) for key, value in content.items()}
    if isinstance(content, list):
        return [redacted(value, paths) for value in content]
    if not isinstance(content, str):
        return content
    name, equals, value = content.partition("=")  # --set key=value
    if re.fullmatch(r"[\w.-]+", name) and equals and _BEGINS_LIKE_A_PATH.match(value):
        return f"{name}={last_part(value)}"
    return last_part(content) if _BEGINS_LIKE_A_PATH.match(content) else redact(content, paths)


def secret_in(text: str) -> str | None:
    """The secret in a text that must not leave this machine: a token, or a path that shows the user."""
    from robustctl.hub.client import own_token

    token = own_token()
    if (token and token in text) or re.search(r"\bhf_[A-Za-z0-9]{30,}\b", text):
        return TOKEN
    found = next((place for place in [*_own_places(), str(Path.cwd())] if len(place) > 1 and f"{place}/" in text), None)
    return f"the local path {found}" if found else None


def _own_places() -> list[str]:
    return [str(Path.home()), f"/home/{_user()}", f"/Users/{_user()}", f"C:\\Users\\{_user()}"]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
