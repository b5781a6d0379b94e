"""Models of the user's own: any ``nn.Module`` from [0,1] pixels to logits."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from robustctl.architectures import Classifier, OwnClassifier, device_of, opens_logits
from robustctl.data import ImageData
from robustctl.devices import kept_random
from robustctl.modes import kept_modes
from robustctl.spec import Architecture, ModelSpec


def wrap(module: nn.Module, data: ImageData, *, name: str, dataset: str | None = None) -> tuple[Classifier, ModelSpec]:
    """Make a classifier of a module, and the spec that says what it takes and returns.

    Args:
        data: images that it takes; one of them is shown to it.
        name: what to call its architecture.
        dataset: the data set that it classifies, if that has a name.

    Raises:
        RequestError: it cannot take the image, or does not return logits.
    """
    image = data.images([0])
    model = OwnClassifier(module, opens_logits(module, image))
    with torch.no_grad():
        logits = model(image.to(device_of(module)))
    layers = hashlib.sha256(repr(module).encode()).hexdigest()[:16]
    spec = ModelSpec(
        schema="robustctl.model/1",
        architecture=Architecture(name=name, args={"layers": layers}),
        input_shape=data.shape,
        n_classes=logits.shape[1],
        dataset=dataset or data.source,
    )
    return model, spec


@contextmanager
def left_alone(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in eval mode; afterwards it and the random state are as they were before.

    Kept are: the mode of every submodule, ``requires_grad`` and ``grad`` of every parameter, parameters and buffers bit
    by bit, and the generators of Python, NumPy and torch.
    """
    parameters = [(one, one.requires_grad, one.grad) for one in module.parameters()]
    state = [(tensor, tensor.detach().clone()) for tensor in [*module.parameters(), *module.buffers()]]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with kept_modes(module), kept_random(*(tensor.device for tensor, _ in state)):
            module.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for parameter, trainable, gradient in parameters:
            parameter.requires_grad_(trainable)
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, before in state:
                if not torch.equal(tensor, before):
                    tensor.copy_(before)
