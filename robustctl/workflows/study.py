"""Runs a study: reads it, checks all of it, does what is missing, and gathers its results for a table."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from robustctl.conventions import CONVENTIONS
from robustctl.errors import RequestError
from robustctl.models.find import find_model
from robustctl.progress import say
from robustctl.reading import parse_yaml
from robustctl.report.methods import Scored
from robustctl.results.union import read
from robustctl.runs import root
from robustctl.study import cells
from robustctl.study.cells import FOLDER, Evaluation, StudyPlan
from robustctl.study.pool import Place, Pool, Processes
from robustctl.study.run import carry_out, only_one
from robustctl.study.schema import START, Study, StudyData, StudyFile
from robustctl.yaml_faults import Key

DIGITS = "digits"
Executor = Literal["processes", "slurm"]


def read_study(path: Path, *, to_run: bool = True) -> StudyPlan:
    """Read a study's file and make its plan.

    Args:
        to_run: whether its images must be here; a table of its results does not need them.

    Raises:
        RequestError: all faults of the file, with their lines: keys, models, recipes, data, protocols, radii.
    """
    file = StudyFile(path)
    faults = list(file.faults)

    def tell(key: Key, text: object) -> None:
        faults.append(file.fault(key, text))

    for key, text in [*protocol_faults(file.study), *(data_faults(file.study) if to_run else ())]:
        tell(key, text)
    plan = cells.plan(file.study, tell)
    file.refuse(faults)
    return plan


def plan_of(study: Study) -> StudyPlan:
    """The plan of a study that was put together from options; raises RequestError with its first fault."""

    def refuse(_: Key, text: object) -> None:
        raise RequestError(str(text))

    for key, text in [*study.contradictions(), *data_faults(study)]:
        refuse(key, text)
    return cells.plan(study, refuse)


def study_of(
    command: Literal["train", "finetune"],
    model: str,
    recipes: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    data: str | None = None,
    split: str | None = None,
    columns: str | None = None,
    classes: Path | None = None,
) -> Study:
    """The study that ``finetune`` or ``train`` with several recipes or seeds means; options as theirs.

    Raises:
        RequestError: something stands there twice, an override is none, or a split is named without its data.
    """
    pairs: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {text!r} is not of the form key=value, e.g. optim.lr=0.01")
        pairs[key.strip()] = parse_yaml(value, f"--set {text!r}: its value")
    if data is None and (split or columns or classes):
        raise RequestError("--split, --columns and --classes are about --data; give it too")
    about = {"source": data, "columns": columns, "classes": classes, **({"train_split": split} if split else {})}
    kind = "models" if command == "finetune" else "architectures"
    try:
        return Study.model_validate(
            {kind: model, "recipes": recipes, "seeds": seeds, "set": pairs, "data": [about] if data else []}
        )
    except ValidationError as error:
        raise RequestError("; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())) from None


def protocol_faults(study: Study) -> list[tuple[Key, str]]:
    """Protocols and attacks that are not there, by their place in the study."""
    if not study.protocols:
        return []
    from robustctl.evaluation.union import require_protocol
    from robustctl.workflows.outside_attacks import parse_attacks

    norms = {norm for radii in study.threats for norm in radii} or {"linf", "l2", "l1"}
    found: list[tuple[Key, str]] = []
    for i, text in enumerate(study.protocols):
        try:
            require_protocol(parse_attacks(text)[0], norms)
        except RequestError as error:
            found.append((("protocols", i), str(error)))
    return found


def data_faults(study: Study) -> list[tuple[Key, str]]:
    """Images that are not here, splits that they do not have, and more images than there are, by their place.

    Data sets of the hub are judged by the steps that fetch them.
    """
    from robustctl.data import Columns, look
    from robustctl.workflows.images import hub_dataset

    asked: list[tuple[Key, StudyData]] = [(("data", i), one) for i, one in enumerate(study.data)]
    sources = [CONVENTIONS[dataset].source for dataset in _datasets(study)]
    if study.n is not None and not study.data and all(source == DIGITS for source in sources) and sources:
        asked.append((("n",), StudyData(source=DIGITS)))
    trained = any(recipe != START for recipe in study.recipes)
    found: list[tuple[Key, str]] = []
    for key, one in asked:
        if hub_dataset(one.source):
            continue
        parts = [(one.train_split, None)] * trained + [(one.split, one.n or study.n)] * bool(study.protocols)
        for split, n in parts:
            try:
                look(one.source, split, n, Columns.parse(one.columns))
            except RequestError as error:
                found.append((key, str(error)))
    return found


def _datasets(study: Study) -> set[str]:
    """The known data sets of the study's models; models that are not here are left out."""
    found = set()
    for one in study.models:
        with contextlib.suppress(RequestError):
            found.add(find_model(str(one)).spec.dataset)
    return found & set(CONVENTIONS)


def pool(executor: Executor, jobs: int, options: Sequence[str], processes: int = 1) -> Pool:
    """Where the steps run.

    Args:
        options: submitit's parameters, ``key=value`` each.
        processes: how many processes torchrun starts for each step.
    """
    if executor == "processes":
        if options:
            raise RequestError("--slurm is read with --executor slurm; leave it out here")
        return Processes(max(1, (os.cpu_count() or 1) // (jobs * processes)), processes)
    from robustctl.study.slurm import SlurmJobs

    pairs = dict(_pair(text) for text in options)
    return SlurmJobs(root() / FOLDER / "jobs", pairs, processes=processes)


def _pair(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"--slurm {text!r} is not of the form key=value, e.g. slurm_partition=gpu")
    return name.strip(), int(value) if value.strip().isdigit() else value.strip()


def run(plan: StudyPlan, name: str, pool: Pool, places: Sequence[Place], jobs: int, again: str) -> None:
    """Do the steps of a plan that are missing; raises as ``study.run.carry_out`` does.

    Args:
        name: the study's name; one command at a time may run it.
    """
    with only_one(name):
        carry_out(plan, pool, places, jobs, again)


def is_study(text: str) -> bool:
    """Whether a text that names results is the file of a study."""
    return text.endswith((".yaml", ".yml"))


def evaluated(path: Path) -> list[Evaluation]:
    """The evaluations of a study's file whose results are there; the number of missing ones is said.

    Raises:
        RequestError: as ``read_study``; images need not be here.
    """
    plan = read_study(path, to_run=False)
    there = [one for one in plan.evaluations if one.done()]
    if missing := len(plan.evaluations) - len(there):
        say(f"{path}: {missing} of its {len(plan.evaluations)} results are missing; robustctl study {path}")
    return there


def opened(texts: Sequence[str]) -> list[str]:
    """Names of results, with the files of its results in the place of each study; RequestError as ``evaluated``."""
    found: list[str] = []
    for text in texts:
        found += [str(one.result) for one in evaluated(Path(text))] if is_study(text) else [text]
    return found


def scored(one: Evaluation) -> Scored:
    """The result of an evaluation, for a table of methods."""
    from robustctl.spec import read_spec
    from robustctl.workflows.method_results import reported

    result, training = read(one.result), one.of
    start = one.start
    name = str(start.code) if start.code else Path(start.name).name or start.name
    if training is None:
        return Scored(START, name, None, result)
    paper = None
    if not training.recipe.overrides:
        with contextlib.suppress(RequestError):
            settings, spec = training.recipe.settings, read_spec(training.run.path)
            paper = reported(settings, spec, start.found.spec if start.found else None, start.name, result)
    return Scored(training.method, name, training.seed, result, paper)
