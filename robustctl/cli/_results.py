"""How commands name results: a JSON file, or a run (its newest result)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from robustctl.errors import RequestError

if TYPE_CHECKING:
    from robustctl.results import UnionResult


def read_all(texts: list[str]) -> list[tuple[str, "UnionResult"]]:
    """Read results and give each a label: its model, with the file's name where two have the same.

    Args:
        texts: paths of result files, or runs.

    Raises:
        RequestError: no such file or run, or a file that is no result.
    """
    from robustctl import results

    paths = [_path(text) for text in texts]
    found = [(path, results.read(path)) for path in paths]
    models = [result.model for _, result in found]
    return [(_label(path, result.model, models), result) for path, result in found]


def everything() -> list[str]:
    """The result files of union evaluations under the runs' root, oldest first."""
    from robustctl import runs

    root = runs.root()
    files = [*root.glob("*/eval/*.json"), *root.glob("eval/*/*.json")]
    return [str(path) for path in sorted(files, key=lambda path: path.stat().st_mtime) if _is_union(path)]


def _path(text: str) -> Path:
    from robustctl import runs

    run = runs.find(text)
    if run is None:
        return Path(text)
    files = sorted((run.path / "eval").glob("*.json"), key=lambda path: path.stat().st_mtime)
    union = [path for path in files if _is_union(path)]
    if not union:
        raise RequestError(f"run {run.name} has no result yet; make one with robustctl eval {run.path}")
    return union[-1]


def _is_union(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("schema") == "robustctl.eval/1")
    except (OSError, ValueError, AttributeError):
        return False


def _label(path: Path, model: str, models: list[str]) -> str:
    return model if models.count(model) == 1 else f"{model} ({path.stem})"
