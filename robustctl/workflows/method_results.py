"""Reads the results that a table of methods is made of: files, runs, studies."""

from pathlib import Path

from robustctl import runs
from robustctl.errors import RequestError
from robustctl.models.find import find_model
from robustctl.recipe import read as recipes
from robustctl.recipe.fields import threats
from robustctl.recipe.schema import Settings
from robustctl.report.figures import COLUMNS
from robustctl.report.methods import Paper, Scored
from robustctl.results.suite import SuiteResult
from robustctl.results.union import UnionResult
from robustctl.runs import Run, RunRecord
from robustctl.spec import ModelSpec, read_spec
from robustctl.workflows.named_results import newest_union, read_measured


def scored(text: str) -> Scored:
    """The result of a file, or the newest one of a run, with the method that made its model.

    Raises:
        RequestError: no such file or run, or it is no result.
    """
    run = runs.find(text)
    path = Path(text) if run is None else newest_union(run)
    result = read_measured(path)
    return of_run(run or _made_by(path, result), result)


def of_run(run: Run | None, result: UnionResult | SuiteResult, method: str | None = None) -> Scored:
    """A result with the method of the run that made its model; without a run, the model is its own method.

    Args:
        method: what to call it, instead of the recipe's short name.
    """
    if run is None:
        return Scored(method or result.model, result.model, None, result)
    record = run.read()
    name = method or Path(record.recipe_name).stem
    changed = f" ({', '.join(record.overrides)})" if record.overrides and method is None else ""
    start = record.base or record.model_code or record.model
    paper = paper_of(run, record, result) if isinstance(result, UnionResult) else None
    return Scored(name + changed, start, record.seed, result, paper)


def _made_by(path: Path, result: UnionResult | SuiteResult) -> Run | None:
    """The run in whose folder a result lies, or that the result names."""
    folder = path.absolute().parent
    folder = folder.parent if folder.name == "threats" else folder  # where suites lie
    for found in (runs.find(str(folder.parent)), runs.find(result.model)):
        if found is not None:
            return found
    return None


def paper_of(run: Run, record: RunRecord, result: UnionResult) -> Paper | None:
    """The figures of the recipe's paper for this training and these radii; None if it reports no such row."""
    if record.overrides:
        return None
    try:
        settings = recipes.load(record.recipe_name).settings
        spec, start = read_spec(run.path), find_model(record.base).spec if record.base else None
    except RequestError:
        return None
    return reported(settings, spec, start, record.base, result)


def reported(
    settings: Settings, spec: ModelSpec, start: ModelSpec | None, base: str | None, result: UnionResult
) -> Paper | None:
    """The row of ``reported`` that is about this architecture, this start (``base``) and these radii."""
    measured = {norm: accuracy.eps for norm, accuracy in result.norms.items()}
    if measured != {threat.norm: threat.eps for threat in threats(settings.evaluate.threats)}:
        return None
    for one in settings.reported:
        alike = one.architecture == spec.architecture.name and one.start == (start.norm if start else None)
        if alike and one.model in (None, base):
            figures = {name: getattr(one, name) for name in COLUMNS}
            return Paper(one.source, {name: value for name, value in figures.items() if value is not None})
    return None
