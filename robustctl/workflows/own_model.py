"""Models of the user's own: any ``nn.Module`` from [0,1] pixels to logits."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustctl.architectures import Classifier, device_of
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.spec import Architecture, ModelSpec


class OwnClassifier(Classifier):
    """A module of the user's, without a normalisation of ours; an output with a field ``logits`` is opened.

    Args:
        net: the module.
        opens: whether its output is such an object, as those of the transformers library are.
    """

    def __init__(self, net: nn.Module, opens: bool) -> None:
        super().__init__(net, None)
        self.opens = opens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, c, h, w) in [0,1]."""
        out: Any = self.net(x)
        return out.logits if self.opens else out  # type: ignore[no-any-return]


def wrap(module: nn.Module, data: ImageData, *, name: str, dataset: str | None = None) -> tuple[Classifier, ModelSpec]:
    """Make a classifier of a module in eval mode, and the spec that says what it takes and returns.

    Args:
        data: images that it takes; one of them is shown to it.
        name: what to call its architecture.
        dataset: the data set that it classifies, if that has a name.

    Raises:
        RequestError: it cannot take the image, or does not return logits.
    """
    image = data.images([0]).to(device_of(module))
    try:
        with torch.no_grad():
            out = module(image)
    except Exception as error:  # the module is the user's code, and may raise anything
        raise RequestError(
            f"{name} cannot take an image {list(image.shape)} of floats in [0,1]: {type(error).__name__}: {error}"
        ) from error
    opens = not isinstance(out, Tensor) and isinstance(getattr(out, "logits", None), Tensor)
    logits = out.logits if opens else out
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RequestError(f"{name} returns {what} for one image; expected logits [1, number of classes]")
    layers = hashlib.sha256(repr(module).encode()).hexdigest()[:16]
    spec = ModelSpec(
        schema="robustctl.model/1",
        architecture=Architecture(name=name, args={"layers": layers}),
        input_shape=data.shape,
        n_classes=logits.shape[1],
        dataset=dataset or data.source,
    )
    return OwnClassifier(module, opens), spec


@contextmanager
def left_alone(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in eval mode; afterwards it and the random state are as they were before.

    That is: the mode of every submodule, ``requires_grad`` and ``grad`` of every parameter, parameters and buffers bit
    by bit, and the generators of Python, NumPy and torch.
    """
    modes = [(part, part.training) for part in module.modules()]
    parameters = [(one, one.requires_grad, one.grad) for one in module.parameters()]
    state = [(tensor, tensor.detach().clone()) for tensor in [*module.parameters(), *module.buffers()]]
    python, numpy = random.getstate(), np.random.get_state()
    cuda = [tensor.device for tensor, _ in state if tensor.is_cuda]
    try:
        with torch.random.fork_rng(devices=sorted({device.index for device in cuda})):
            module.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for part, mode in modes:
            part.training = mode
        for parameter, trainable, gradient in parameters:
            parameter.requires_grad_(trainable)
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, before in state:
                if not torch.equal(tensor, before):
                    tensor.copy_(before)
