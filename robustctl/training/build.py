"""Builds the parts of a training from checked settings, a model and data."""

import copy
import shutil
from pathlib import Path

import torch
from torch import Tensor

from robustctl import discovery
from robustctl.architectures import Classifier, device_of
from robustctl.data import EncodedData, ImageData, pseudo_labels
from robustctl.devices import HOST, kept_random, memory_of
from robustctl.errors import RequestError, RunError, of_users_code
from robustctl.processes import World, share_batch_norm
from robustctl.recipe.schema import HUB_FILE, Settings
from robustctl.spec import WEIGHTS, ModelSpec, Resize
from robustctl.threats import Norm
from robustctl.training import state_file
from robustctl.training.batches import Batches, Images, Streamed, hold_out
from robustctl.training.loop import BEST
from robustctl.training.methods import TrainingMethod
from robustctl.training.parts import Parts
from robustctl.training.passes import passes_of
from robustctl.training.selection import Selector

RESIDENT_SHARE = 0.4
"""Images are kept on a GPU if they take less than this share of its free memory."""
IMAGENET_SIDE = 224


def build_parts(
    model: Classifier,
    spec: ModelSpec,
    data: ImageData | EncodedData,
    settings: Settings,
    *,
    seed: int,
    device: torch.device,
    world: World | None = None,
    start_norm: Norm | None = None,
    helper: Classifier | None = None,
) -> Parts:
    """Check that everything fits, and put it on the device. Nothing is written.

    Args:
        model: trained in place.
        data: the whole training split; the recipe's selection images are held out of it, and held in memory.
        start_norm: the norm that the model was trained for before, if one is known.
        helper: the network whose labels the outer loss takes, if it needs one (HAT).

    Raises:
        RequestError: the recipe does not fit the model, the data or the processes.
    """
    world = world or World()
    lr = learning_rate(settings, spec)
    method = make_method(settings)
    if method.alone and world.size > 1:
        raise RequestError(f"method {settings.method.name} trains in one process: start it without torchrun")
    for size in (settings.train.batch_size, *(phase.batch_size for phase in settings.resize or ())):
        world.part(size)  # refuses what cannot be shared evenly before anything starts
    train, selected = hold_out(data, settings.selection.images)
    if isinstance(selected, EncodedData):
        selected = selected.decoded(spec.input_shape, spec.resizing if selected.any_size else None)
    freeze(model, settings.train.freeze)
    model.to(device)
    model.to(memory_format=torch.channels_last)
    if world.size > 1:
        share_batch_norm(model)
    batches = _batches(train, spec, settings, seed, device)
    return Parts(
        model=model,
        spec=spec,
        settings=settings,
        method=method,
        batches=batches,
        passes=tuple(passes_of(settings, batches, method.replays, spec.input_shape[-1])),
        selector=Selector(_images(selected, device), settings.evaluate_threats, settings.selection.steps, world),
        lr=lr,
        seed=seed,
        device=device,
        world=world,
        start_norm=start_norm,
        helper=helper.to(device).eval().requires_grad_(False) if helper else None,
    )


def freeze(model: Classifier, names: tuple[str, ...]) -> None:
    """Take the parameters whose names begin so out of the training, or raise RequestError if there are none."""
    for name in names:
        frozen = [parameter for key, parameter in model.net.named_parameters() if key.startswith(name)]
        if not frozen:
            parts = ", ".join(sorted({key.partition(".")[0] for key, _ in model.net.named_parameters()}))
            raise RequestError(f"train.freeze: no parameter begins with {name!r}; the network's parts are {parts}")
        for parameter in frozen:
            parameter.requires_grad_(False)


def make_method(settings: Settings) -> TrainingMethod:
    """The method that the recipe names, in its first state."""
    module = discovery.load("robustctl.training.methods", settings.method.name, "method")
    method: TrainingMethod = module.Method(settings.method, settings.train_threats)
    return method


def input_shape(data: ImageData | EncodedData, settings: Settings) -> tuple[int, int, int]:
    """The (channels, height, width) that a new network takes: the images' own, if all have one size.

    Where they have not: colour images of the last phase's size, or of 224 pixels.
    """
    if isinstance(data, EncodedData) and data.any_size:
        side = max(settings.resize, key=lambda phase: phase.at).size if settings.resize else IMAGENET_SIDE
        return 3, side, side
    return data.shape


def resizing_spec(spec: ModelSpec, data: ImageData | EncodedData) -> ModelSpec:
    """The spec, which after training on images of several sizes says how they are resized."""
    if isinstance(data, EncodedData) and data.any_size:
        return spec.model_copy(update={"resize": spec.resizing or Resize.usual(spec.input_shape[-1])})
    return spec


def learning_rate(settings: Settings, spec: ModelSpec) -> float:
    """The recipe's learning rate for the model; RequestError if it has none."""
    name = spec.architecture.name
    lr = settings.optim.lr_for(name)
    if lr is None:
        raise RequestError(
            f"optim.lr has no value for {name} and no default (it has {', '.join(settings.optim.lr)}); "
            f"give one: --set optim.lr.{name}=0.01"
        )
    return lr


def require_space(model: Classifier, settings: Settings, directory: Path) -> None:
    """Raise RunError if the checkpoints of a run in ``directory`` would not fit on the disk.

    Checkpoints that a resumed run has there already need no more room.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    files = [directory / name for name in (WEIGHTS, BEST, state_file.STATE, state_file.PREVIOUS)]
    there = sum(file.stat().st_size for file in files if file.is_file())
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free / 1e6, (copies_on_disk(settings) * size - there) / 1e6
    if free < needed:
        raise RunError(
            f"{place} has {free:.1f} MB free; the checkpoints of this run need {needed:.1f} MB; make room first"
        )


def require_outputs(model: Classifier, spec: ModelSpec) -> None:
    """Show two images to a copy of the model, in eval and in training mode.

    Raises:
        RequestError: it fails, writes into the images, or returns something else than logits (2, n_classes), such as
            a tuple with the logits of auxiliary heads.
    """
    shape, expected = (2, *spec.input_shape), (2, spec.n_classes)
    device = device_of(model)
    tried = copy.deepcopy(model)  # in training mode a pass moves the statistics of batch norms
    with torch.no_grad(), kept_random(device):
        for mode, training in (("eval mode", False), ("training mode", True)):
            images = torch.rand(shape, device=device)
            kept = images.clone()
            what = f"{spec.architecture.name} cannot be trained: it fails in {mode} on images {list(shape)} with "
            with of_users_code(what):
                out: object = tried.train(training)(images)
            if not torch.equal(images, kept):
                raise RequestError(
                    f"{spec.architecture.name} writes into the images that it is given in {mode} (in place, such as "
                    "x.clamp_). Let it copy them first: x = x.clone()"
                )
            if not isinstance(out, Tensor) or out.shape != expected:
                found = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
                raise RequestError(
                    f"{spec.architecture.name} returns {found} in {mode}; expected logits {list(expected)} in both "
                    "modes. If it has auxiliary heads, leave them out of what it returns"
                )


def copies_on_disk(settings: Settings) -> int:
    """How many times the model's size a run takes: last and best weights, the state, the one before it, and the one
    that will replace them."""
    optimizers = 2 if settings.projection or settings.pretrain else 1
    moments = optimizers * (2 if settings.optim.name == "adam" else 1)
    start_and_movement = 2 if settings.projection else 0
    average = 1 if settings.average else 0
    return 2 + 3 * (1 + moments + start_and_movement + average)


def new_head(model: Classifier, old: ModelSpec, n_classes: int, weights: dict[str, torch.Tensor]) -> ModelSpec:
    """Load into ``model``, built for ``n_classes``, all weights but the head's, which stays as it was drawn.

    Returns:
        The spec with the new number of classes.

    Raises:
        RequestError: tensors other than the last layer's do not fit.
    """
    wanted = model.net.state_dict()
    head = [name for name in wanted if name in weights and wanted[name].shape != weights[name].shape]
    if any(wanted[name].shape[0] != n_classes or weights[name].shape[0] != old.n_classes for name in head):
        raise RequestError(f"cannot give a new head: {', '.join(head)} depend on more than the number of classes")
    model.net.load_state_dict({**weights, **{name: wanted[name] for name in head}}, strict=True)
    return old.model_copy(update={"n_classes": n_classes, "norm": None, "eps": None})


def _extra_file(text: str) -> Path:
    """The file of the extra images; one of a hub data set is fetched, unless it is here."""
    if (place := HUB_FILE.fullmatch(text)) is None:
        return Path(text).expanduser()
    from robustctl.models.pull import fetch_dataset_file

    return fetch_dataset_file(place["repo"], place["path"], place["revision"])


def _batches(
    train: ImageData | EncodedData, spec: ModelSpec, settings: Settings, seed: int, device: torch.device
) -> Batches:
    """Batches come from the device's own memory if the images fit; else workers bring them, and decode them if need
    be."""
    extra = None
    if settings.extra:
        extra = pseudo_labels.read(_extra_file(settings.extra.path), spec.input_shape, spec.n_classes)
    if isinstance(train, EncodedData):
        resident = False
    else:
        size = train.x.nbytes + (extra[0].nbytes if extra else 0)
        memory = memory_of(device)
        resident = memory is None or size < RESIDENT_SHARE * memory[0]
    home = device if resident else HOST
    return Batches(
        Streamed(train, spec) if isinstance(train, EncodedData) else _images(train, home),
        settings.augment,
        seed,
        spec.n_classes,
        Images(extra[0].to(home), extra[1].to(home)) if extra else None,
        settings.extra.share if settings.extra else 0.0,
        device=device,
        workers=0 if resident else 2,
    )


def _images(data: ImageData, device: torch.device) -> Images:
    return Images(data.x.to(device), data.y.to(device))
