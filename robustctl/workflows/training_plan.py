"""Makes a plan from a request to train: everything resolved and checked before any weights are fetched."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from robustctl import runs
from robustctl.conventions import CONVENTIONS
from robustctl.data import Columns, EncodedData, ImageData, Reading
from robustctl.data.suspicion import suspicions
from robustctl.errors import RequestError
from robustctl.models.find import FoundModel, find_model
from robustctl.processes import World
from robustctl.publish.push import require_licence
from robustctl.recipe import read as recipe
from robustctl.recipe.read import Recipe
from robustctl.recipe.schema import Settings
from robustctl.runs import Run
from robustctl.spec import IMAGENET, ModelSpec, read_spec
from robustctl.study.cells import dataset_of
from robustctl.threats import require_plausible, unusual
from robustctl.training.build import input_shape, learning_rate
from robustctl.user_code import UserCode
from robustctl.workflows import rehearsal
from robustctl.workflows.coded_model import coded_model, require_alone
from robustctl.workflows.images import load_training_images, reading_of
from robustctl.workflows.obtain import obtain
from robustctl.workflows.training_request import TrainingRequest


@dataclass(frozen=True)
class TrainingPlan:
    """A request with everything resolved.

    ``found_model`` is the start of a fine-tuning, ``spec`` the model of a run that is resumed, ``code`` the user's own
    code that builds the model.
    """

    request: TrainingRequest
    settings: Settings
    recipe: Recipe | None
    model: str
    found_model: FoundModel | None
    data: ImageData | EncodedData
    seed: int
    spec: ModelSpec | None = None
    reading: Reading = field(default_factory=Reading)
    code: UserCode | None = None

    @property
    def weights_are_absent(self) -> bool:
        """Whether the weights that the training starts from have to be fetched first."""
        return self.found_model is not None and not self.found_model.weights.is_file()


def plan_afresh(request: TrainingRequest, code: UserCode | None, scope: ExitStack) -> TrainingPlan:
    """Resolve a request that starts a new run; the weights of an entry are fetched only once all else is right.

    Args:
        code: the user's own code, already granted.
        scope: what must stay until the training has its model is closed with it.

    Raises:
        RequestError: something is missing or wrong.
        RunError: the weights could not be fetched.
    """
    if request.recipe is None:
        raise RequestError("say how to train: --recipe R (robustctl recipes list shows them)")
    require_alone(code, request.weights, request.model)
    if request.model is None and code is not None:
        return _plan_coded(request, request.recipe, code, scope)
    if request.model is None:
        raise RequestError(f"say what to {request.command}: robustctl {request.command} MODEL --recipe R")
    found_model = find_model(request.model) if request.command == "finetune" else None
    inherited = found_model.licence if found_model else None
    require_licence(request.push, request.licence or inherited, found_model.name if found_model else None)
    dataset = found_model.spec.dataset if found_model else dataset_of(request.recipe, request.data)
    chosen = recipe.load(request.recipe, request.overrides, dataset)
    reading = reading_of(request.columns, request.classes)
    spec = found_model.spec if found_model else None
    data = request.images or _data(
        request.data, request.split or "train", reading, chosen.settings, spec, matching=not request.new_head
    )
    if found_model and not request.dry_run:
        found_model = obtain(request.model)  # a gigabyte perhaps: only now that the request is known to be right
    return TrainingPlan(
        request, chosen.settings, chosen, request.model, found_model, data, request.seed or 0, None, reading, code
    )


def plan_without_images(request: TrainingRequest, world: World) -> list[str]:
    """The lines about a fresh training whose images cannot be had now, and about what to bring."""
    if request.recipe is None or request.model is None:
        return []
    found_model = find_model(request.model) if request.command == "finetune" else None
    dataset = found_model.spec.dataset if found_model else dataset_of(request.recipe, request.data)
    chosen = recipe.load(request.recipe, request.overrides, dataset)
    settings = chosen.settings
    source = request.data or (CONVENTIONS[settings.dataset].source if settings.dataset in CONVENTIONS else "--data")
    lines = [
        f"{request.command} {request.model} with recipe {chosen.name} (method {settings.method.name})",
        f"trained on {', '.join(map(str, settings.train_threats))}; judged by "
        f"{', '.join(map(str, settings.evaluate_threats))}; epochs: {settings.train.epochs}",
        rehearsal.outline(settings),
        f"time: by the recipe, {settings.about.cost}",
        *(rehearsal.without_images(settings, found_model.spec, world) if found_model else []),
        f"to bring: the images of {source}",
    ]
    if settings.extra and not Path(settings.extra.path).expanduser().is_file():
        lines.append(f"to bring: the extra images of {settings.extra.path} (--set extra.path=FILE)")
    if found_model is not None and not found_model.weights.is_file():
        lines.append(f"to bring: the weights of {request.model}, with robustctl pull {request.model}")
    hint = rehearsal.published_row(chosen, found_model.name if found_model else None)
    return [*lines, hint] if hint else lines


def _plan_coded(request: TrainingRequest, recipe_name: str, code: UserCode, scope: ExitStack) -> TrainingPlan:
    """A plan to train, or to fine-tune, what the user's own code builds; ``scope`` keeps its weights until it ends."""
    require_licence(request.push, request.licence, None)
    chosen = recipe.load(recipe_name, request.overrides, dataset_of(recipe_name, request.data))
    reading = reading_of(request.columns, request.classes)
    data = request.images or _data(
        request.data, request.split or "train", reading, chosen.settings, None, matching=False
    )
    found_model = None
    if request.command == "finetune":
        shape = input_shape(data, chosen.settings)
        model = coded_model(code, request.weights, shape, data.n_classes, chosen.settings.dataset)
        found_model = scope.enter_context(model)
    elif request.weights is not None:
        raise RequestError("train starts from random weights; robustctl finetune takes --weights")
    seed = request.seed or 0
    return TrainingPlan(request, chosen.settings, chosen, code.short_name, found_model, data, seed, None, reading, code)


def _data(
    source: str | None, split: str, reading: Reading, settings: Settings, spec: ModelSpec | None, *, matching: bool
) -> ImageData | EncodedData:
    """The training split; images may have several sizes only if the model, the data set or the recipe allows it.

    Args:
        matching: whether the labels are the classes of ``spec``; else it gets a new head for the data's classes.
    """
    dataset = settings.dataset
    if source is None and dataset not in CONVENTIONS:
        raise RequestError(f"say where the images of {dataset!r} are: --data FOLDER, .npz file or hub data set")
    any_size = bool(settings.augment.resized_crop or dataset == IMAGENET or (spec and spec.resizing))
    side = spec.input_shape[-1] if spec else None
    return load_training_images(
        source or CONVENTIONS[dataset].source,
        split,
        any_size=any_size,
        side=side,
        spec=spec if matching else None,
        reading=reading,
    )


def run_to_resume(request: TrainingRequest) -> Run:
    """The run of ``--out``, else the newest unfinished one; RequestError if there is none."""
    if request.out is not None:
        return runs.Run(request.out)
    for run in runs.unfinished():
        record = run.read()
        if request.model in (None, record.model) and record.command == request.command:
            return run
    raise RequestError(f"there is no unfinished run in {runs.root()} to resume; name one: --resume --out RUN")


def plan_resumption(request: TrainingRequest, run: Run) -> TrainingPlan:
    """The plan that a run recorded; a request that says otherwise is a RequestError, which names the difference."""
    record = run.read()
    if not run.has_state():
        raise RequestError(f"{run.path} has no saved state to go on from; start it again without --resume")
    require_licence(request.push, request.licence or record.licence, record.base)
    changed = [
        f"{name} (given {given!r}, the run has {recorded!r})"
        for name, given, recorded in (
            ("the command", request.command, record.command),
            ("MODEL", request.model, record.model),
            ("--seed", request.seed, record.seed),
            ("--data", request.data, record.data["source"]),
            ("--split", request.split, record.data["split"]),
            ("--columns", request.columns, record.data.get("columns")),
        )
        if given is not None and given != recorded
    ]
    settings = recipe.from_resolved(record.recipe)
    if request.recipe is not None:
        new = recipe.load(request.recipe, request.overrides, settings.dataset)
        # As read back, not as stored: keys that came after the run's version have their defaults then.
        changed += recipe.differences(settings.model_dump(mode="json"), new.resolved())
    elif request.overrides:
        changed += [f"--set {override} (give --recipe too)" for override in request.overrides]
    if changed:
        raise RequestError(f"cannot resume {run.path} with a changed request: {'; '.join(changed)}")
    spec = read_spec(run.path)
    reading = Reading(Columns.parse(record.data.get("columns")), record.data.get("classes"))
    if request.classes is not None and reading_of(None, request.classes).classes != reading.classes:
        raise RequestError(f"cannot resume {run.path} with another --classes than it was started with")
    matching = spec.classes is not None or reading.classes is not None
    data = request.images or _data(
        record.data["source"], record.data["split"], reading, settings, spec, matching=matching
    )
    if not data.has_content(record.data["content_sha256"]):
        raise RequestError(f"cannot resume {run.path}: the images of {record.data['source']} have changed")
    return TrainingPlan(request, settings, None, record.model, None, data, record.seed, spec, reading)


def oddities(plan: TrainingPlan, spec: ModelSpec) -> list[str]:
    """Radii that are likely to be slips, and properties of the pixels that images do not have, a line each; with
    ``force`` also the ones that are else refused.

    Raises:
        RequestError: a radius that makes no sense, or pixels that no images have.
    """
    settings, force = plan.settings, plan.request.force
    if not force:
        require_plausible(settings.train_threats, spec.input_shape, key="train.threats")
        require_plausible(settings.evaluate_threats, spec.input_shape, key="evaluate.threats")
    found = suspicions(plan.data, settings.dataset) if isinstance(plan.data, ImageData) else []
    for suspicion in found:
        if suspicion.certain and not force:
            raise RequestError(f"{plan.data.where}: {suspicion.text}. --force trains on it nevertheless")
    slips = unusual(settings.train_threats, spec.input_shape, key="train.threats")
    slips += unusual(settings.evaluate_threats, spec.input_shape, key="evaluate.threats")
    return slips + [f"{plan.data.where}: {suspicion.text}" for suspicion in found]


def header(plan: TrainingPlan, spec: ModelSpec) -> list[str]:
    """Lines for people: what is trained, on what, for which threats, how long."""
    settings = plan.settings
    trained_on = "clean images" if settings.method.name == "natural" else ", ".join(map(str, settings.train_threats))
    lines = [
        f"{plan.request.command} {plan.model} ({spec.architecture.name}, {settings.dataset}) with method "
        f"{settings.method.name}, seed {plan.seed}",
        f"data: {len(plan.data)} images of {plan.data.source} ({plan.data.split}), {settings.selection.images} of them "
        "held out for selection",
        f"trained on {trained_on}; judged by "
        f"{', '.join(map(str, settings.evaluate_threats))}; epochs: {settings.train.epochs}, "
        f"lr {learning_rate(settings, spec):g}",
    ]
    hints = [recipe.hull_line(settings, prod(spec.input_shape))]
    if plan.recipe is not None and plan.found_model is not None:
        hints.append(rehearsal.published_row(plan.recipe, plan.found_model.name))
    return [*lines, *(hint for hint in hints if hint)]
