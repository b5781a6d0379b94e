"""The things that stay the same from step to step: the model as attacks and training see it, the attack, the
precision."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from robustctl.processes import World
from robustctl.recipe.outer import Outer
from robustctl.recipe.schema import Apgd, Pgd, Settings
from robustctl.training.attacked import Attacked, Tell
from robustctl.training.meter import Meter
from robustctl.training.micro_batches import MicroBatches
from robustctl.training.mixed_precision import MixedPrecision
from robustctl.training.room import Room


@dataclass(frozen=True)
class StepContext:
    """The things that stay the same from step to step.

    Attributes:
        model: the classifier.
        network: the same model as the training's forward pass sees it (in micro-batches, compiled, or shared between
            processes).
        attacked: makes the oracles of attacks.
        passes: ``network`` in this process, by itself.
        autocast: makes the context of mixed precision, and decides whether there is one.
        helper: a frozen network whose labels the outer loss takes, if it needs one (HAT).
    """

    model: nn.Module
    network: Callable[..., Tensor]
    passes: MicroBatches
    attacked: Attacked
    attack: Apgd | Pgd | None
    outer: Outer
    autocast: MixedPrecision
    meter: Meter
    world: World
    seed: int
    helper: nn.Module | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        settings: Settings,
        meter: Meter,
        world: World,
        seed: int,
        device: torch.device,
        tell: Tell = lambda line: None,
        helper: nn.Module | None = None,
    ) -> "StepContext":
        """The context that a recipe asks for; ``tell`` takes the line that says what is attacked."""
        room = Room.of(model, settings)
        passes = MicroBatches(model, room, settings.compile)
        return cls(
            model=model,
            network=network(passes, world),
            passes=passes,
            attacked=Attacked(model, world, tell, room.attacks, settings.compile),
            attack=settings.attack,
            outer=settings.outer,
            autocast=MixedPrecision(settings, device),
            meter=meter,
            world=world,
            seed=seed,
            helper=helper,
        )

    @property
    def room(self) -> Room:
        """The room that the training takes on the device."""
        return self.passes.room

    @property
    def pgd(self) -> Pgd:
        """The recipe's attack, for a method that takes no other."""
        assert isinstance(self.attack, Pgd), "the recipe was checked"
        return self.attack


def network(passes: MicroBatches, world: World) -> Callable[..., Tensor]:
    """The forward pass of training, as ``MicroBatches.forward``, shared between processes."""
    if world.size == 1:
        return passes
    wrap = nn.parallel.DistributedDataParallel
    newer = "forward_sync_buffers" in signature(wrap).parameters  # torch warns of the older name since it has this one
    switch = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    # Gradients are views of the buckets in which they travel, which saves a copy of them.
    return wrap(passes, find_unused_parameters=True, gradient_as_bucket_view=True, **switch)  # type: ignore[arg-type]
