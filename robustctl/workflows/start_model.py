"""Builds the model that a training starts from, and the parts of that training."""

import torch

from robustctl import checkpoint
from robustctl.architectures import Classifier, build
from robustctl.errors import RequestError
from robustctl.processes import World
from robustctl.progress import say
from robustctl.recipe.outer import Hat
from robustctl.recipe.schema import Settings
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.build import build_parts, input_shape, new_head
from robustctl.training.parts import Parts
from robustctl.workflows.coded_model import build_coded
from robustctl.workflows.subject import find_subject
from robustctl.workflows.training_plan import TrainingPlan


def start_model(plan: TrainingPlan) -> tuple[Classifier, ModelSpec]:
    """The model that training starts from, and its spec after training; a resumed one gets its weights later.

    In a dry run, an entry whose weights are not here yet has random ones.

    Raises:
        RequestError: the model does not fit the data.
    """
    torch.manual_seed(plan.seed)
    if plan.spec is not None:
        return build(plan.spec), plan.spec
    if plan.found_model is None and plan.code is not None:
        shape = input_shape(plan.data, plan.settings)
        model, spec = build_coded(plan.code, shape, plan.data.n_classes, plan.settings.dataset)
        if spec.n_classes != plan.data.n_classes:
            raise RequestError(f"{plan.data.source} has {plan.data.n_classes} classes, {plan.model} {spec.n_classes}")
        spec = spec.model_copy(update={"classes": plan.data.class_names})
        return model, _trained_for(spec, plan.settings)
    if plan.found_model is None:
        arguments = plan.settings.architecture.get(plan.model, {})
        spec = ModelSpec(
            schema="robustctl.model/1",
            architecture=Architecture(name=plan.model, args=arguments),
            input_shape=input_shape(plan.data, plan.settings),
            n_classes=plan.data.n_classes,
            classes=plan.data.class_names,
            dataset=plan.settings.dataset,
        )
        return build(spec), _trained_for(spec, plan.settings)
    spec, weights = plan.found_model.spec, plan.found_model.weights
    absent = plan.request.dry_run and plan.weights_are_absent
    if absent:
        say(f"the weights of {plan.model} are not here yet; they would be fetched first")
    if plan.request.new_head:
        if spec.architecture.code is not None:
            raise RequestError("--new-head is for robustctl's own architectures; let --model-code build the new layer")
        new_classes = {"n_classes": plan.data.n_classes, "classes": plan.data.class_names}
        fresh = spec.model_copy(update=new_classes)
        model = build(fresh)
        spec = fresh if absent else new_head(model, spec, plan.data.n_classes, checkpoint.read_tensors(weights))
        return model, _trained_for(spec.model_copy(update=new_classes), plan.settings)
    if plan.data.n_classes != spec.n_classes:
        raise RequestError(
            f"{plan.data.source} has {plan.data.n_classes} classes, {plan.model} tells {spec.n_classes} apart; "
            "give it a new head: --new-head"
        )
    plan.data.require(spec.input_shape, spec.n_classes)
    spec = spec.model_copy(update={"classes": spec.classes or plan.data.class_names})
    return build(spec) if absent else checkpoint.load_from(spec, weights), _trained_for(spec, plan.settings)


def start_parts(plan: TrainingPlan, model: Classifier, spec: ModelSpec, device: torch.device, world: World) -> Parts:
    """The parts of the training that starts from this model; errors as ``build_parts``."""
    return build_parts(
        model,
        spec,
        plan.data,
        plan.settings,
        seed=plan.seed,
        device=device,
        world=world,
        start_norm=plan.found_model.spec.norm if plan.found_model else None,
        helper=_helper(plan, spec) if isinstance(plan.settings.outer, Hat) else None,
    )


def _helper(plan: TrainingPlan, spec: ModelSpec) -> Classifier:
    """The helper that the recipe names; RequestError if it has other images or classes than the model."""
    assert isinstance(plan.settings.outer, Hat)
    name = plan.settings.outer.helper
    try:
        found = find_subject(name).found_model
    except RequestError as error:
        raise RequestError(f"outer.helper: {error}") from None
    if (found.spec.input_shape, found.spec.n_classes) != (spec.input_shape, spec.n_classes):
        raise RequestError(
            f"outer.helper: {name} takes images {list(found.spec.input_shape)} of {found.spec.n_classes} classes, the "
            f"model {list(spec.input_shape)} of {spec.n_classes}"
        )
    return checkpoint.load_from(found.spec, found.weights)


def _trained_for(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """The spec after training. It names a norm only if one norm alone was trained."""
    threats = [] if settings.method.name == "natural" else settings.train_threats
    one = threats[0] if len(threats) == 1 else None
    return spec.model_copy(update={"norm": one and one.norm, "eps": one and one.eps_text})
