"""The model that ``train`` and ``finetune`` start from."""

from typing import TYPE_CHECKING

from robustctl.errors import RequestError
from robustctl.progress import say

if TYPE_CHECKING:
    from robustctl.architectures import Classifier
    from robustctl.cli._training import Job
    from robustctl.recipe.schema import Settings
    from robustctl.spec import ModelSpec


def model_of(job: "Job") -> tuple["Classifier", "ModelSpec"]:
    """The model that training starts from, and its spec after training; a resumed one gets its weights later.

    In a dry run, an entry whose weights are not here yet has random ones.

    Raises:
        RequestError: the model does not fit the data.
    """
    import torch

    from robustctl import checkpoint
    from robustctl.architectures import build
    from robustctl.spec import Architecture, ModelSpec
    from robustctl.training.build import input_shape, new_head

    torch.manual_seed(job.seed)
    if job.spec is not None:
        return build(job.spec), job.spec
    if job.located is None:
        arguments = job.settings.architecture.get(job.model, {})
        spec = ModelSpec(
            schema="robustctl.model/1",
            architecture=Architecture(name=job.model, args=arguments),
            input_shape=input_shape(job.data, job.settings),
            n_classes=job.data.n_classes,
            dataset=job.settings.dataset,
        )
        return build(spec), _trained_for(spec, job.settings)
    spec, weights = job.located.spec, job.located.weights
    absent = job.request.dry_run and not weights.is_file()
    if absent:
        say(f"the weights of {job.model} are not here yet; they would be fetched first")
    if job.request.new_head:
        fresh = spec.model_copy(update={"n_classes": job.data.n_classes})
        model = build(fresh)
        spec = fresh if absent else new_head(model, spec, job.data.n_classes, checkpoint.read_tensors(weights))
        return model, _trained_for(spec, job.settings)
    if job.data.n_classes != spec.n_classes:
        raise RequestError(
            f"{job.data.source} has {job.data.n_classes} classes, {job.model} tells {spec.n_classes} apart; "
            "give it a new head: --new-head"
        )
    job.data.require(spec.input_shape, spec.n_classes)
    return build(spec) if absent else checkpoint.load_from(spec, weights), _trained_for(spec, job.settings)


def _trained_for(spec: "ModelSpec", settings: "Settings") -> "ModelSpec":
    """The spec after training: one norm where one was trained, none where several were, or clean images alone."""
    threats = [] if settings.method.name == "natural" else settings.train_threats
    one = threats[0] if len(threats) == 1 else None
    return spec.model_copy(update={"norm": one and one.norm, "eps": one and one.eps_text})
