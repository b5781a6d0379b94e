"""A tiny training: a step in float64 around a small network, and whole loops on random images."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.processes import World
from robustctl.recipe.outer import CrossEntropy
from robustctl.recipe.read import from_resolved
from robustctl.recipe.schema import Pgd, Settings
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.attacked import Attacked
from robustctl.training.build import build_parts
from robustctl.training.loop import SAVE_SECONDS, Loop
from robustctl.training.meter import Meter
from robustctl.training.micro_batches import MicroBatches
from robustctl.training.room import Room
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

RADII = {"linf": "0.1", "l2": "0.5", "l1": "1.5"}


class Example:
    """One optimiser step's surroundings in float64, with everything that a restatement of a formula needs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(75, 4), nn.Softplus(), nn.Linear(4, 3)
        ).double()
        self.x = torch.rand(6, 1, 5, 5, dtype=torch.float64)
        with torch.no_grad():
            self.y = self.model(self.x).argmax(1)
        self.y[::3] = (self.y[::3] + 1) % 3  # some are wrong from the start
        self.attack = Pgd(name="pgd", steps=3, step={"linf": 0.4, "l2": 0.4, "l1": 0.4}, start="zero")
        self.meter = Meter()

    def step(self, outer: Any = None, number: int = 0, helper: Any = None) -> Step:
        """A fresh step; every attack starts at the clean image, unless ``attack`` is replaced."""
        context = StepContext(
            model=self.model,
            network=self.model,
            passes=MicroBatches(self.model, Room(self.model)),
            attacked=Attacked(self.model, World()),
            attack=self.attack,
            outer=outer or CrossEntropy(name="cross-entropy"),
            autocast=nullcontext,
            meter=self.meter,
            world=World(),
            seed=0,
            helper=helper,
        )
        return Step(context, self.x, self.y, number)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Gradients of a loss in all parameters."""
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def assert_same(self, loss: Tensor, restated: Tensor) -> None:
        """Loss and parameter gradients agree to 1e-6."""
        torch.testing.assert_close(loss, restated, rtol=0, atol=1e-6)
        for one, other in zip(self.gradients(loss), self.gradients(restated), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.fixture
def example() -> Example:
    return Example()


def _settings_for(method: dict[str, Any], **changes: Any) -> Settings:
    """A small recipe: two epochs of batches of 8, APGD or PGD with two steps."""
    norms = {
        "at": ["linf"],
        "fgsm": ["linf"],
        "free": ["linf"],
        "natural": ["linf"],
        "prl": ["linf"],
        "z-mc": ["linf"],
        "z-ps": ["linf"],
    }.get(method["name"])
    norms = norms or (["linf", "l1"] if method["name"] == "e-at" else ["linf", "l2", "l1"])
    if method["name"] == "ramp" and method["pair"] != "auto":
        norms = list(method["pair"])
    values: dict[str, Any] = {
        "dataset": "digits",
        "about": {"paper": "none", "cost": "none"},
        "method": method,
        "train": {"threats": {norm: RADII[norm] for norm in norms}, "epochs": 2, "batch_size": 8},
        "evaluate": {"threats": RADII},
        "optim": {"lr": 0.1, "weight_decay": 5e-4},
        "schedule": {"name": "step-per-third"},
        "selection": {"images": 8, "steps": 2},
    }
    if method["name"] == "msd":
        values["attack"] = {"name": "pgd", "steps": 2, "step": dict.fromkeys(RADII, 0.5), "start": "zero"}
    elif method["name"] not in ("fgsm", "free", "natural", "prl", "z-mc", "z-ps"):
        values["attack"] = {"name": "apgd", "steps": 2}
    return from_resolved({**values, **changes})


MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings_for() -> MakeSettings:
    """Builds a small recipe around a ``method`` block; keyword arguments replace other blocks."""
    return _settings_for


def random_data(n: int = 48) -> ImageData:
    """Images of two kinds that a network can tell apart, 10 classes told apart badly."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 10
    x = torch.rand((n, 1, 8, 8), generator=generator) * 0.6 + 0.04 * y.view(-1, 1, 1, 1)
    return ImageData(x, y, 10, "random", "train", torch.arange(n))


SPEC = ModelSpec(
    architecture=Architecture(name="kw-small", args={"width": 2, "hidden": 8}),
    input_shape=(1, 8, 8),
    n_classes=10,
    dataset="digits",
)

MakeLoop = Callable[..., Loop]


@pytest.fixture
def make_loop() -> MakeLoop:
    """Builds a loop over ``random_data`` in a directory; ``resuming`` goes on from what is saved there."""

    def make(
        settings: Settings,
        directory: Path,
        *,
        resuming: bool = False,
        save_seconds: float = SAVE_SECONDS,
        device: str = "cpu",
        **options: Any,
    ) -> Loop:
        directory.mkdir(exist_ok=True)
        torch.manual_seed(0)
        parts = build_parts(build(SPEC), SPEC, random_data(), settings, seed=0, device=torch.device(device), **options)
        loop = Loop(parts, directory, save_seconds=save_seconds)
        if resuming:
            loop.resume()
        return loop

    return make
