"""The steps of a study: trainings and evaluations, each with a name that follows from what it does. No torch here.

Two studies that ask for the same training share its run, and a study that is started again finds what it has done.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustctl import runs
from robustctl.conventions import CONVENTIONS
from robustctl.discovery import names, unknown
from robustctl.errors import RequestError
from robustctl.models.find import FoundModel, find_model
from robustctl.recipe import read as recipes
from robustctl.recipe.fields import threats as threats_of
from robustctl.recipe.read import Recipe
from robustctl.runs import Run
from robustctl.study.schema import START, Coded, Study, StudyData
from robustctl.threats import Threat, require_plausible
from robustctl.user_code import parse as parse_code
from robustctl.yaml_faults import Key

FOLDER = "study"
"""Below the runs' root: results, logs and jobs of all studies."""

Tell = Callable[[Key, object], None]
"""Is told the key of a study at which something is wrong, and what."""


@dataclass(frozen=True)
class Start:
    """A model or an architecture that a study names, or the user's own code that builds it.

    Attributes:
        name: for people and for names of steps.
        found: a model of the registry, a repo, a directory or a run; None for an architecture and for code.
        identity: changes if the weights or the code do.
    """

    name: str
    code: Coded | None
    found: FoundModel | None
    identity: str

    @property
    def dataset(self) -> str | None:
        """The data set of the model's images, if it says one."""
        return self.found.spec.dataset if self.found else None

    def arguments(self) -> list[str]:
        """The words of a command line in the place of MODEL or ARCH."""
        if self.code is None:
            return [self.name]
        weights = ["--weights", str(self.code.weights)] if self.code.weights else []
        return [*self.granting(), *weights]

    def granting(self) -> list[str]:
        """The words of a command line that let a run of this model be built by the user's code."""
        return ["--model-code", self.code.code] if self.code else []


@dataclass(frozen=True)
class Training:
    """One run: what is trained how from which seed.

    Attributes:
        command: ``finetune`` a model, or ``train`` an architecture.
        start: what it starts from.
        recipe: checked, overrides applied.
        data: None takes what the recipe's data set usually has.
        name: of its run directory.
    """

    command: str
    start: Start
    recipe: Recipe
    seed: int
    data: StudyData | None
    name: str

    @property
    def run(self) -> Run:
        """Its run directory, which need not be there yet."""
        return Run(runs.root() / self.name)

    @property
    def method(self) -> str:
        """Its name in a table: the recipe's short name."""
        return self.recipe.short_name

    def done(self) -> bool:
        """Whether the run has all its steps and its record says so."""
        try:
            record = self.run.read()
        except RequestError:
            return False
        return record.status == "finished" and record.step >= record.steps > 0

    def arguments(self, device: str) -> list[str]:
        """The command line that does it, or goes on with it."""
        run = self.run
        if run.has_state():
            go_on = ["--resume", "--out", str(run.path), *self.start.granting()]
            return [self.command, *go_on, "--device", device]
        written = [self.command, *self.start.arguments(), "--recipe", str(self.recipe.path), "--seed", str(self.seed)]
        for override in self.recipe.overrides:
            written += ["--set", override]
        if self.data is not None:
            written += ["--data", self.data.source, "--split", self.data.train_split, *_columns(self.data)]
            if self.data.classes is not None and self.command == "finetune":
                written += ["--classes", str(self.data.classes)]
        return [*written, "--device", device, "--out", str(run.path)]

    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all; (0, 0) before its record is there."""
        try:
            return self.run.steps_done(), self.run.read().steps
        except RequestError:
            return 0, 0


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run, or of a model as it is (``of`` is None)."""

    of: Training | None
    start: Start
    data: StudyData | None
    n: int | None
    threats: tuple[Threat, ...]
    protocol: str
    precision: str
    name: str

    @property
    def result(self) -> Path:
        """Its result file, which is there once it is done."""
        return runs.root() / FOLDER / "results" / f"{self.name}.json"

    @property
    def method(self) -> str:
        """Its name in a table: the recipe's short name, or ``start``."""
        return self.of.method if self.of else START

    def done(self) -> bool:
        """Whether its result is there; it is written in one piece."""
        return self.result.is_file()

    def arguments(self, device: str) -> list[str]:
        """The command line that does it, or goes on with it."""
        subject = [str(self.of.run.path), *self.start.granting()] if self.of else self.start.arguments()
        written = ["eval", *subject, "--attack", self.protocol]
        if self.threats:
            written += ["--norms", ",".join(threat.norm for threat in self.threats)]
            written += ["--eps", ",".join(map(str, self.threats))]
        if self.data is not None:
            written += ["--data", self.data.source, "--split", self.data.split, *_columns(self.data)]
            written += ["--classes", str(self.data.classes)] if self.data.classes else []
        written += ["--n", str(self.n)] if self.n else []
        return [*written, "--precision", self.precision, "--device", device, "--json", str(self.result)]


def _columns(data: StudyData) -> list[str]:
    return ["--columns", data.columns] if data.columns else []


Step = Training | Evaluation


@dataclass
class StudyPlan:
    """The steps of a study in the order of its lists."""

    trainings: list[Training] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    def needed(self, training: Training) -> bool:
        """Whether a training is still to be done: not if all its results are there."""
        mine = [one for one in self.evaluations if one.of == training]
        return not training.done() and (not mine or not all(one.done() for one in mine))


def plan(study: Study, tell: Tell) -> StudyPlan:
    """The steps of a study.

    Args:
        tell: is told each fault; the plan holds the steps that have none.
    """
    found = StudyPlan()
    starts = 0
    for key, command, named in (("models", "finetune", study.models), ("architectures", "train", study.architectures)):
        for i, one in enumerate(named):
            try:
                start = _start(command, one)
            except RequestError as error:
                tell((key, i), error)
                continue
            starts += 1
            for data in study.data or (None,):
                _add(found, study, command, start, data, _at(tell, (key, i)))
    if not starts:
        _judge_recipes(study, tell)
    return found


def _at(tell: Tell, own: Key) -> Tell:
    """Tells at ``own`` if no other key is given."""
    return lambda key, text: tell(key or own, text)


def _start(command: str, named: str | Coded) -> Start:
    """Find the thing that a study names; RequestError if it is not there."""
    if isinstance(named, Coded):
        code = parse_code("code", named.code)
        if named.weights is not None and not named.weights.is_file():
            raise RequestError(f"weights: there is no file {named.weights}")
        weights = f" {_hash_of(named.weights)}" if named.weights else ""
        return Start(code.short_name, named, None, f"{named.code} {code.sha256}{weights}")
    if command == "finetune":
        model = find_model(named)
        return Start(named, None, model, _identity(named, model))
    family, known = named.partition("/")[0], names("robustctl.architectures")
    if family not in known:
        raise unknown("architecture", family, known)
    return Start(named, None, None, named)


def _add(found: StudyPlan, study: Study, command: str, start: Start, data: StudyData | None, tell: Tell) -> None:
    """Add the steps that begin at ``start``; ``tell`` takes an empty key for the start's own."""
    for i, name in enumerate(study.recipes):
        if name == START:
            if start.code is not None and data is None:
                tell((), f"{start.name}: code does not say which images it is for; name them: data: digits")
                continue
            if start.found is None and command == "train":
                tell(("recipes", i), f"{START} is a model as it is; an architecture has no weights to evaluate")
                continue
            dataset = start.dataset or (dataset_of(START, data.source) if data else None)
            radii = CONVENTIONS[dataset].threats if dataset in CONVENTIONS else ()
            found.evaluations += _evaluations(study, None, start, start.identity, data, radii, tell)
            continue
        try:
            dataset = start.dataset or dataset_of(name, data.source if data else None)
            chosen = recipes.load(name, study.overrides, dataset)
        except RequestError as error:
            _tell_of_recipe(study, i, str(error), tell)
            continue
        for seed in study.seeds:
            training = _training(command, start, chosen, seed, data)
            if any(one.name == training.name for one in found.trainings):  # one recipe under two names
                continue
            found.trainings.append(training)
            radii = chosen.settings.evaluate_threats
            found.evaluations += _evaluations(study, training, start, training.name, data, radii, tell)


def _judge_recipes(study: Study, tell: Tell) -> None:
    """Tell the faults of the recipes of a study that names no model that is there."""
    for i, name in enumerate(study.recipes):
        if name == START:
            continue
        whole = name
        if dataset_of(name, None) is None and "/" not in name and not name.endswith((".yaml", ".yml")):
            whole = next((one for one in recipes.names() if one.endswith(f"/{name}")), name)
        try:
            recipes.load(whole, study.overrides)
        except RequestError as error:
            _tell_of_recipe(study, i, str(error), tell)


def _tell_of_recipe(study: Study, i: int, error: str, tell: Tell) -> None:
    """Tell what is wrong with a recipe: what ``set`` changed wrongly stands there, not in the recipe."""
    first, *others = error.partition("\nhint: ")[0].splitlines()  # a hint stands at the end of a message
    rest = []
    for line in others:
        for name, override in zip(study.set, study.overrides, strict=True):
            if line.strip().startswith(f"--set {override}: "):
                tell(("set", name), line.strip().removeprefix(f"--set {override}: ").removeprefix(f"{name}: "))
                break
        else:
            rest.append(line)
    if rest or not others:
        tell(("recipes", i), "\n  ".join([first, *rest]))


def dataset_of(recipe_name: str, source: str | None) -> str | None:
    """The data set for which a recipe is looked up: the images' own; None if the recipe's name says it."""
    if "/" in recipe_name or recipe_name.endswith((".yaml", ".yml")):
        return None
    return next((name for name, standard in CONVENTIONS.items() if source in (name, standard.source)), None)


def _training(command: str, start: Start, chosen: Recipe, seed: int, data: StudyData | None) -> Training:
    # Without defaults: a key that a later version adds does not make another training of what was trained.
    said_by_recipe = chosen.settings.model_dump(mode="json", exclude_defaults=True)
    resolved = {key: value for key, value in said_by_recipe.items() if key not in recipes.NOT_TRAINED}
    said = data.model_dump(mode="json", include={"source", "train_split", "columns", "classes"}) if data else None
    digest = _digest([command, start.identity, resolved, said])
    name = f"{_slug(start.name)}-{_slug(chosen.short_name)}-seed{seed}-{digest}"
    return Training(command, start, chosen, seed, data, name)


def _evaluations(
    study: Study,
    training: Training | None,
    start: Start,
    identity: str,
    data: StudyData | None,
    usual: Sequence[Threat],
    tell: Tell,
) -> Iterator[Evaluation]:
    said = data.model_dump(mode="json", include={"source", "split", "columns", "classes"}) if data else None
    n = (data.n if data else None) or study.n
    unions = [threats_of(radii) for radii in study.threats] or [tuple(usual)]
    for union in unions:
        if not union:
            tell((), f"no usual radii are known for {start.name}; give them: threats: {{linf: 8/255}}")
            continue
        try:
            require_plausible(union, start.found.spec.input_shape if start.found else None, key="threats", way_on="")
        except RequestError as error:
            tell(("threats",) if study.threats else (), str(error).removeprefix("threats: "))
            continue
        for protocol in study.protocols:
            digest = _digest([identity, said, n, list(map(str, union)), protocol, study.precision])
            name = f"{_slug(training.name if training else start.name)}-{_slug(protocol)}-{digest}"
            yield Evaluation(training, start, data, n, union, protocol, study.precision, name)


def _identity(model: str, found_model: FoundModel) -> str:
    """An entry is pinned by its name; of a directory the weights count, which may be others tomorrow."""
    if found_model.entry is not None or not found_model.weights.is_file():
        return model
    return f"{found_model.name} {_hash_of(found_model.weights)}"


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(text).name or text).strip("-.") or "model"
