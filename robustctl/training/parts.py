"""The parts that a training is made of, checked and on their device."""

from dataclasses import dataclass

import torch

from robustctl.architectures import Classifier
from robustctl.processes import World
from robustctl.recipe.schema import Settings
from robustctl.spec import ModelSpec
from robustctl.threats import Norm
from robustctl.training.batches import Batches
from robustctl.training.methods import TrainingMethod
from robustctl.training.passes import Pass
from robustctl.training.selection import Selector


@dataclass(frozen=True)
class Parts:
    """The parts that a training is made of; ``training.build`` checks that they fit each other.

    Attributes:
        model: on its device; it is trained in place.
        passes: over the data, in order.
        selector: measures the model on the held-out images.
        lr: the recipe's learning rate for this architecture.
        start_norm: the norm that the model was trained for before, if one is known.
        helper: the network whose labels the outer loss takes, if it needs one (HAT).
    """

    model: Classifier
    spec: ModelSpec
    settings: Settings
    method: TrainingMethod
    batches: Batches
    passes: tuple[Pass, ...]
    selector: Selector
    lr: float
    seed: int
    device: torch.device
    world: World
    start_norm: Norm | None = None
    helper: Classifier | None = None

    @property
    def sharded(self) -> bool:
        """Whether the processes share the optimiser's state out among them; one process alone keeps all of it."""
        return self.settings.train.shard and self.world.size > 1
