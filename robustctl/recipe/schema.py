"""Everything that a recipe says about training, as checked values. No torch here.

The method's own block is checked by the ``Config`` in its file of ``robustctl/training/methods``.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    Tag,
    model_validator,
)

from robustctl import discovery
from robustctl.recipe.fields import Block, NonNegativeFinite, PositiveFinite, Radii, Share, Steps, threats
from robustctl.recipe.method import MethodConfig
from robustctl.recipe.outer import CrossEntropy, Outer
from robustctl.recipe.schedules import Schedule
from robustctl.spec import Scalar
from robustctl.threats import Norm, Threat


def _for_every_architecture(value: Any) -> Any:
    return value if isinstance(value, dict) else {"default": value}


def _is_architecture(name: str) -> str:
    """Check the part before ``/``: what comes after it is for another library to know."""
    family, known = name.partition("/")[0], discovery.names("robustctl.architectures")
    if family not in known:
        raise ValueError(str(discovery.unknown("architecture", family, known)))
    return name


def _is_architecture_or_default(name: str) -> str:
    return name if name == "default" else _is_architecture(name)


ArchitectureName = Annotated[str, AfterValidator(_is_architecture)]
LearningRates = Annotated[
    dict[Annotated[str, AfterValidator(_is_architecture_or_default)], PositiveFinite],
    BeforeValidator(_for_every_architecture),
]


class About(Block):
    """Where the experiment stands and what it costs; shown by ``recipes list``."""

    paper: str
    cost: str


Percent = Annotated[float, Field(ge=0, le=100)]


class Reported(Block):
    """A paper's figures for this recipe as it is, in percent; a table of ours shows it beside what was measured.

    It is about one architecture, and one norm that the start was trained for (none from random weights); with ``model``
    about one start alone.
    """

    source: str
    architecture: ArchitectureName
    start: Norm | None = None
    model: str | None = None
    clean: Percent | None = None
    linf: Percent | None = None
    l2: Percent | None = None
    l1: Percent | None = None
    average: Percent | None = None
    union: Percent | None = None


class Train(Block):
    """The threats, the passes and the batches of a training. ``threats`` belong to the inner maximisation; ``epochs``
    are passes over the data. ``freeze`` are beginnings of the names of parameters that stay as they are.

    Attributes:
        micro_batch: the most images that a device takes through the network at once; a step is still one of
            ``batch_size`` images. ``auto`` is as many as its memory holds by arithmetic; left out, the whole batch.
        checkpoint: whether the network's blocks are computed twice instead of kept for the backward pass.
        shard: whether each of several processes keeps only its part of the optimiser's state.
    """

    threats: Radii
    epochs: PositiveInt
    batch_size: PositiveInt
    freeze: tuple[str, ...] = ()
    micro_batch: PositiveInt | Literal["auto"] | None = None
    checkpoint: bool = False
    shard: bool = False


class Evaluate(Block):
    """The union that the result is judged by; never taken from ``train.threats``."""

    threats: Radii


class Apgd(Block):
    """Auto-PGD (Croce and Hein 2020); the point of highest loss is kept.

    ``start``: the clean image, or a random point of the ball. ``l1_sparsity``: share of pixels of the first l_1 steps.
    """

    name: Literal["apgd"]
    steps: Steps
    start: Literal["zero", "random"] = "zero"
    l1_sparsity: Annotated[float, Field(gt=0, le=1)] = 0.05


class Pgd(Block):
    """Projected gradient descent with steps of ``step`` times the radius; l_1 takes SLIDE's sparse steps.

    ``start``: the clean image, or a random point of the ball.
    """

    name: Literal["pgd"]
    steps: Steps
    step: Annotated[dict[Literal["linf", "l2", "l1"], PositiveFinite], Field(min_length=1)]
    start: Literal["zero", "random"] = "random"


Attack = Annotated[Apgd | Pgd, Field(discriminator="name")]


class Optimizer(Block):
    """The keys that every optimiser takes. ``lr`` is a number, or one for each architecture and a ``default``.

    ``decay_on``: weight decay on every parameter, or not on biases and normalisation.
    """

    lr: LearningRates
    weight_decay: NonNegativeFinite
    decay_on: Literal["all", "weights"] = "all"

    def lr_for(self, architecture: str) -> float | None:
        """The learning rate for an architecture; None if the recipe has none for it."""
        return self.lr[architecture] if architecture in self.lr else self.lr.get("default")


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with PyTorch's betas; it has no momentum to set."""

    name: Literal["adam"]


def _optimizer_name(value: Any) -> Any:
    return value.get("name", "sgd") if isinstance(value, dict) else getattr(value, "name", "sgd")


Optim = Annotated[
    Annotated[Sgd, Tag("sgd")] | Annotated[Adam, Tag("adam")],
    Discriminator(_optimizer_name),
]


class Augment(Block):
    """Random changes of the training images.

    Attributes:
        crop: pixels of padding before a random crop of the old size; 0 is none.
        resized_crop: least share of the image that a random crop takes, which is resized to the full size (ImageNet's
            augmentation: 0.08); images may then have any size. 0 is none.
        flip: left-right flips with probability one half.
        cutout: side of the square that is blanked at a random place; 0 is none.
        mixup: alpha of the Beta distribution that pairs of images are mixed by; 0 is none.
    """

    crop: NonNegativeInt = 0
    resized_crop: Share = 0.0
    flip: bool = False
    cutout: NonNegativeInt = 0
    mixup: NonNegativeFinite = 0.0

    @model_validator(mode="after")
    def _one_crop(self) -> "Augment":
        if self.crop and self.resized_crop:
            raise ValueError("crop and resized_crop exclude each other: one of them must be 0")
        return self


class Selection(Block):
    """Images held out of the training split to choose the best weights: union of ``evaluate.threats`` by APGD."""

    images: PositiveInt
    steps: PositiveInt = 10


class Pretrain(Block):
    """Natural training before the method starts (RAMP, section 4.2)."""

    epochs: PositiveInt
    lr: PositiveFinite


class Projection(Block):
    """Gradient projection with natural training after each epoch (RAMP, equations 4 to 7)."""

    beta: Share


class Regularize(Block):
    """Penalties on weights (not on biases and normalisation): ``l1`` sum |w| + ``l2`` sum w^2."""

    l1: NonNegativeFinite = 0.0
    l2: NonNegativeFinite = 0.0


HUB_FILE = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?/(?P<path>.+)")
"""A file of a hub data set: ``hub:USER/NAME/FILE`` or ``hub:USER/NAME@REVISION/FILE``."""


class Extra(Block):
    """Pseudo-labelled (Carmon et al. 2019) or generated images in a file; ``share`` of each batch comes from it.

    Attributes:
        path: of a file, or ``hub:USER/NAME/FILE`` of a hub data set, which is fetched.
    """

    path: str
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Average(Block):
    """Exponential moving average of the weights, which is what is selected and kept."""

    decay: Annotated[float, Field(gt=0, lt=1)]


class Awp(Block):
    """Adversarial weight perturbation (Wu et al. 2020, equations 8 to 10): each step descends from weights that were
    moved uphill by ``gamma`` times their layer's length; from epoch ``warmup`` on (counted from 0).
    """

    gamma: PositiveFinite = 0.005
    warmup: NonNegativeInt = 0


class Phase(Block):
    """One phase of progressive resizing: from the start of epoch ``at``, images of ``size`` pixels a side."""

    at: NonNegativeInt
    size: PositiveInt
    batch_size: PositiveInt


class OverfittingCheck(Block):
    """Catastrophic overfitting (thesis 2.2.5): stop when PGD accuracy on a training batch falls by ``drop``."""

    steps: PositiveInt = 5
    drop: Share = 0.2


def takes_no_attack(method: MethodConfig) -> str:
    """The fault of an ``attack`` block beside a method that takes none."""
    return f"attack: method {method.name} takes no attack block; remove it"


def _attack_faults(method: MethodConfig, attack: Apgd | Pgd | None) -> list[str]:
    if attack is None:
        return [f"attack: missing; method {method.name} needs one of {', '.join(method.takes)}"] if method.takes else []
    if not method.takes:
        return [takes_no_attack(method)]
    if attack.name not in method.takes:
        return [f"attack.name: method {method.name} needs {' or '.join(method.takes)}, not {attack.name}"]
    if attack.start not in method.starts:
        return [f"attack.start: method {method.name} starts from {' or '.join(method.starts)}, not from {attack.start}"]
    return []


def _outer_faults(method: MethodConfig, outer: Outer, attack: Apgd | Pgd | None) -> list[str]:
    takes = method.outers()
    if outer.name == "cross-entropy":
        return []
    if not takes:
        return [f"outer: method {method.name} has a loss of its own; remove the block"]
    if outer.name not in takes:
        zero = f"method {method.name} begins at the clean image, where {outer.name} has no gradient to climb"
        return [f"outer.name: {zero}; use {' or '.join(takes)}"]
    if outer.name in ("trades", "hat") and attack and attack.start == "zero":
        return [f"attack.start: outer {outer.name} needs a random start, its gradient is 0 at the clean image"]
    return []


def _extra_faults(extra: Extra, batch_sizes: set[int]) -> list[str]:
    counts = {size: round(extra.share * size) for size in sorted(batch_sizes)}
    return [
        f"extra.share: {extra.share} of a batch of {size} is {count} images; both sources must give at least one"
        for size, count in counts.items()
        if not 0 < count < size
    ]


class Settings(Block):
    """A whole recipe.

    ``architecture`` gives, by name, the arguments of an architecture that is trained from scratch.
    """

    dataset: str
    about: About
    reported: tuple[Reported, ...] = ()
    method: SerializeAsAny[MethodConfig]
    train: Train
    evaluate: Evaluate
    attack: Attack | None = None
    outer: Outer = CrossEntropy(name="cross-entropy")
    architecture: dict[ArchitectureName, dict[str, Scalar]] = Field(default_factory=dict)
    optim: Optim
    schedule: Schedule
    augment: Augment = Augment()
    selection: Selection
    pretrain: Pretrain | None = None
    projection: Projection | None = None
    regularize: Regularize | None = None
    extra: Extra | None = None
    average: Average | None = None
    awp: Awp | None = None
    resize: Annotated[tuple[Phase, ...], Field(min_length=1)] | None = None
    overfitting_check: OverfittingCheck | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False

    @property
    def train_threats(self) -> tuple[Threat, ...]:
        """The threats that are trained on, in the order of ``NORMS``."""
        return threats(self.train.threats)

    @property
    def evaluate_threats(self) -> tuple[Threat, ...]:
        """The threats whose union the result is judged by, in the order of ``NORMS``."""
        return threats(self.evaluate.threats)

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        faults = self.method.faults(frozenset(self.train.threats))
        trained = set(self.train.threats)
        faults += _attack_faults(self.method, self.attack)
        if isinstance(self.attack, Pgd) and (missing := trained - set(self.attack.step)):
            faults.append(f"attack.step lacks {', '.join(sorted(missing))}, which train.threats names")
        if self.attack and (missing := trained - set(self.attack.steps)):
            faults.append(f"attack.steps lacks {', '.join(sorted(missing))}, which train.threats names")
        if self.resize and self.resize[0].at != 0:
            faults.append("resize must begin at epoch 0 (at: 0)")
        faults += _outer_faults(self.method, self.outer, self.attack)
        if self.extra:
            phases = {phase.batch_size for phase in self.resize or ()}
            faults += _extra_faults(self.extra, phases or {self.train.batch_size})
        if self.awp and not self.method.takes:
            faults.append(f"awp cannot be combined with method {self.method.name}, which brings its own attack")
        if self.compile and self.train.checkpoint:
            faults.append("compile cannot be combined with train.checkpoint, whose blocks it would take apart")
        if self.average and self.projection:
            faults.append("average cannot be combined with projection, which moves the weights itself")
        if faults:
            raise ValueError("\n".join(faults))
        return self
