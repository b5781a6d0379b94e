"""The advice about a repo that another library wrote: what is there, and how it is imported. No torch here."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from robustctl.errors import RequestError
from robustctl.reading import read_json
from robustctl.spec import CONFIG

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
MOST_NAMED = 5
SCHEMA = "robustctl.model/"


def not_ours(repo: str, paths: Sequence[str], reason: str) -> RequestError:
    """The error for a repo that ``push`` did not write.

    Args:
        paths: all of its files.
        reason: what is missing or different.
    """
    weights = [path for path in paths if PurePosixPath(path).suffix in WEIGHT_FILES]
    if not weights:
        there = _listed(paths) or "nothing"
        return RequestError(f"{repo} is not a model of robustctl: {reason}. It holds {there}, and no weights")
    weights.sort(key=lambda path: WEIGHT_FILES.index(PurePosixPath(path).suffix))
    which = "its weights are" if len(weights) == 1 else f"it has {len(weights)} files of weights, choose one of"
    file = weights[0]
    return RequestError(
        f"{repo} is not a model of robustctl: {reason}; {which} {_listed(weights)}. If robustctl has its architecture: "
        f"hf download {repo} {file} --local-dir . && robustctl models import {file} --name NAME --arch ARCHITECTURE"
    )


def require_own_config(repo: str, folder: Path, paths: Sequence[str]) -> None:
    """Raise RequestError if ``config.json`` is another library's.

    Args:
        folder: where the file lies already.
        paths: all files of the repo.
    """
    content = read_json(folder / CONFIG)
    content = content if isinstance(content, dict) else {}
    if str(content.get("schema", "")).startswith(SCHEMA):
        return
    kind = content.get("model_type") or content.get("architecture")
    named = f" (of a {kind!r:.80})" if isinstance(kind, str) else ""
    library = " of transformers" if "model_type" in content else " of another library"
    raise not_ours(repo, paths, f"its {CONFIG} is{library}{named}")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(paths[:MOST_NAMED]) + more
