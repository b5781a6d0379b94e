"""A model on its device beside the images that it is evaluated on: suites, curves and certificates begin with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from robustctl import checkpoint
from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier, device_of
from robustctl.data import ImageData
from robustctl.devices import pick_device
from robustctl.evaluation import checks, referee
from robustctl.evaluation.kind_threat import Setup
from robustctl.oracle import DRAWS, Oracle
from robustctl.processes import local_device
from robustctl.progress import say
from robustctl.spec import ModelSpec
from robustctl.trusted_copy import PROBE, trusted_copy
from robustctl.workflows.evaluate import recorded_accuracy
from robustctl.workflows.images import NamedImages
from robustctl.workflows.subject import Subject


@dataclass(frozen=True)
class Prepared:
    """A model, in eval mode on the device to be used, and images that fit it.

    Attributes:
        name: what results call the model.
        eval_dir: stores and results go below it.
        recorded: the clean accuracy that its entry records.
    """

    model: Classifier
    spec: ModelSpec
    data: ImageData
    name: str
    eval_dir: Path
    recorded: checks.KnownAccuracy | None = None

    def __post_init__(self) -> None:
        """Raise RequestError if the images do not fit the model, or hold no pixels."""
        self.data.require(self.spec.input_shape, self.spec.n_classes)
        checks.require_pixels(self.data)

    def flags(self) -> list[str]:
        """Warnings about images and model before any attack."""
        found = checks.pixel_flags(self.data, self.spec.dataset, self.recorded, False)
        return found + checks.model_flags(self.model, self.data, self.spec.n_classes)

    @contextmanager
    def setting(self, effort: str, seed: int, batch_size: int) -> Iterator[Setup]:
        """The setting of the attacks while the block runs; a random model's noise begins at the seed."""
        random = checks.is_random(self.model, self.data)
        if random:
            torch.manual_seed(seed)
        images = self.data.images(range(min(PROBE, len(self.data)))).to(device_of(self.model))
        trusted = trusted_copy(self.model, "float32", images)
        if trusted.reason:
            say(f"the attacks run on {trusted}")
        with kept_memory(), Oracle(self.model, trusted, DRAWS if random else 1) as oracle:
            passes = referee.PASSES if random else 1
            gradient = checks.has_gradient(oracle, self.data)
            yield Setup(self.model, self.spec, self.data, oracle, effort, seed, batch_size, passes, gradient)


def prepare(subject: Subject, images: NamedImages, device: str) -> Prepared:
    """A subject and the images that the user names; RequestError, RunError if they cannot be loaded or do not fit."""
    spec = subject.found_model.spec
    data = images.load(spec)
    model = checkpoint.load_from(spec, subject.found_model.weights).to(local_device(pick_device(device))).eval()
    name, recorded = subject.found_model.name, recorded_accuracy(subject)
    return Prepared(model, spec, data, name, subject.eval_dir, recorded)
