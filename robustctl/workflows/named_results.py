"""Reads the results that a user names: a JSON file, or a run (its newest result)."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from robustctl.errors import RequestError
from robustctl.reading import read_json

if TYPE_CHECKING:
    from robustctl.intermediate.results import IntermediateResult
    from robustctl.results.curve import CurveResult
    from robustctl.results.suite import SuiteResult
    from robustctl.results.union import UnionResult
    from robustctl.runs import Run

    Result = TypeVar("Result", UnionResult, IntermediateResult, CurveResult, SuiteResult)

CURVE = "robustctl.curve/1"
UNION, INTERMEDIATE = "robustctl.eval/1", "robustctl.intermediate/1"


def read_all(texts: list[str]) -> list[tuple[str, "UnionResult"]]:
    """Read results of unions and give each a label: its model, with the file's name if two have the same.

    Args:
        texts: paths of result files, or runs.

    Raises:
        RequestError: no such file or run, or a file that is no result.
    """
    from robustctl import runs
    from robustctl.results import union as results

    paths = []
    for text in texts:
        run = runs.find(text)
        paths.append(Path(text) if run is None else newest_union(run))
    return _labelled([(path, results.read(path)) for path in paths])


def read_measured(path: Path) -> "UnionResult | SuiteResult":
    """The result of an evaluation of the norms, or of a suite.

    Raises:
        RequestError: no such file, or it is no such result.
    """
    from robustctl.results import suite, union

    return suite.read(path) if _schema(path) == suite.SCHEMA else union.read(path)


def read_both(texts: list[str]) -> tuple[list[tuple[str, "UnionResult"]], list[tuple[str, "IntermediateResult"]]]:
    """Read results of unions and intermediate-q results, labelled as in ``read_all`` (curves within a distribution).

    Args:
        texts: paths of result files, or runs: of each the newest result, and the newest of each distribution. Without
            texts: all results under the runs' root.

    Raises:
        RequestError: no such file or run, or a file that is no result.
    """
    from robustctl.intermediate.results import read as read_intermediate
    from robustctl.results.union import read as read_union

    paths = [path for text in texts for path in _named(text)] if texts else _everything()
    curves = [path for path in paths if _schema(path) == INTERMEDIATE]
    return (
        _labelled([(path, read_union(path)) for path in paths if path not in curves]),
        _labelled(
            [(path, read_intermediate(path)) for path in curves],
            lambda result: (result.model, result.distribution.text),
        ),
    )


def read_suites(texts: list[str]) -> list[tuple[str, "SuiteResult"]] | None:
    """Results of suites with their labels; None if the first file is no such result.

    Raises:
        RequestError: the first is a suite's and another is not, or is no result at all.
    """
    from robustctl.results.suite import SCHEMA, read

    if _schema(Path(texts[0])) != SCHEMA:
        return None
    return _labelled([(Path(text), read(Path(text))) for text in texts])


def read_plain(texts: list[str] | None) -> tuple[list[tuple[str, str]], list[str] | None]:
    """Results of suites and curves as titles and plain-text tables, and the texts that name other results.

    Args:
        texts: paths of result files, or runs; None: all under the runs' root (then the other texts are None too).
    """
    from robustctl import runs
    from robustctl.report import curve_table, suite_table
    from robustctl.results.curve import read as read_curve
    from robustctl.results.suite import SCHEMA
    from robustctl.results.suite import read as read_suite

    root = runs.root()
    named = texts if texts else [*map(str, _by_age([*root.glob("*/eval/*/*.json"), *root.glob("eval/*/*/*.json")]))]
    schemas = {text: _schema(Path(text)) for text in named}
    suites = _labelled([(Path(text), read_suite(Path(text))) for text in named if schemas[text] == SCHEMA])
    curves = _labelled([(Path(text), read_curve(Path(text))) for text in named if schemas[text] == CURVE])
    tables = [(f"Suite {one.suite}: {label}", suite_table.table([(label, one)])) for label, one in suites]
    tables += [(f"Accuracy against radius: {label}", curve_table.table(one)) for label, one in curves]
    return tables, [text for text in texts if schemas[text] not in (SCHEMA, CURVE)] if texts else None


def read_curves(
    texts: list[str],
) -> tuple[list[tuple[str, "CurveResult"]], list[tuple[str, "UnionResult"]], list[str]]:
    """Read curves, and results of fixed radii to be shown with them, each with a label.

    A curve is never above a fixed result of the same model: what that broke counts. Where a fixed result is above a
    curve, a note says that it is older and should be made again.

    Args:
        texts: paths of result files.

    Raises:
        RequestError: no such file, a file that is no result, or no curve among them.
    """
    from robustctl.results.curve import read as read_curve
    from robustctl.results.union import read as read_union

    paths = [Path(text) for text in texts]
    with_curves = [path for path in paths if _schema(path) == CURVE]
    curves = _labelled([(path, read_curve(path)) for path in with_curves])
    fixed = _labelled([(path, read_union(path)) for path in paths if path not in with_curves])
    if not curves:
        raise RequestError("none of these files is a curve; make one with robustctl eval MODEL --curve --json FILE")
    notes = []
    for k, (label, curve) in enumerate(curves):
        for name, one in fixed:
            if one.weights_sha256 == curve.weights_sha256 and one.points.index == curve.index:
                notes += [
                    f"{name}: the curve of {label} breaks {n} more points in {norm}; evaluate again, and it counts them"
                    for norm, n in curve.below(one).items()
                ]
                curve = curve.with_verdicts(one)
        curves[k] = label, curve
    return curves, fixed, notes


def _named(text: str) -> list[Path]:
    from robustctl import runs
    from robustctl.intermediate import results

    run = runs.find(text)
    if run is None:
        return [Path(text)]
    curves = {results.read(path).distribution.text: path for path in _files(run, INTERMEDIATE)}
    if not curves:
        return [newest_union(run)]
    return [*_files(run, UNION)[-1:], *curves.values()]


def _everything() -> list[Path]:
    """The result files under the runs' root, oldest first."""
    from robustctl import runs

    root = runs.root()
    files = _by_age([*root.glob("*/eval/*.json"), *root.glob("eval/*/*.json")])
    return [path for path in files if _schema(path) in (UNION, INTERMEDIATE)]


def newest_union(run: "Run") -> Path:
    """The newest result of a run's unions; RequestError if it has none."""
    found = _files(run, UNION)
    if not found:
        raise RequestError(f"run {run.name} has no result yet; make one with robustctl eval {run.path}")
    return found[-1]


def _files(run: "Run", schema: str) -> list[Path]:
    files = _by_age(path for folder in run.eval_dirs() for path in folder.glob("*.json"))
    return [path for path in files if _schema(path) == schema]


def _by_age(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda path: path.stat().st_mtime)


def _schema(path: Path) -> object:
    try:
        return read_json(path).get("schema")
    except (OSError, RequestError, AttributeError):
        return None


def _labelled(
    found: "Sequence[tuple[Path, Result]]", what: "Callable[[Result], object]" = lambda result: result.model
) -> "list[tuple[str, Result]]":
    """Labels each result with its model, and with the file's name if two are of the same ``what``."""
    whats = [what(result) for _, result in found]
    return [
        (result.model if whats.count(what(result)) == 1 else f"{result.model} ({path.stem})", result)
        for path, result in found
    ]
