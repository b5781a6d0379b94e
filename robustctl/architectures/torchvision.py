"""Any classifier of torchvision by its name: ``torchvision/densenet161``. Needs the package torchvision."""

from torch import nn

from robustctl.errors import RequestError

AUXILIARY = ("googlenet", "inception_v3")
"""Models that also return the logits of auxiliary heads in training mode."""


def build(n_classes: int, input_shape: tuple[int, int, int], model: str = "resnet50") -> nn.Module:
    """A torchvision model with random weights, under torchvision's names.

    The auxiliary heads of googlenet and inception_v3 keep their weights, so that published ones can be loaded, but they
    are not trained: in training mode too the model returns the logits of its main head alone.

    Args:
        n_classes: number of logits.
        input_shape: (3, height, width).
        model: its name in torchvision.

    Raises:
        RequestError: torchvision is missing or broken, or has no such classifier, or the images have not 3 channels.
    """
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise RequestError(
            f"torchvision/{model} needs the package torchvision (pip install torchvision): {error}"
        ) from None
    if input_shape[0] != 3:
        raise RequestError(f"torchvision/{model} takes 3 channels, not {input_shape[0]}")
    if model not in models.list_models(module=models):  # others fetch the weights of a backbone while they are built
        raise RequestError(f"torchvision has no classifier {model!r}")
    # Their own first weights are so small that no gradient reaches the image.
    settings = {"init_weights": False} if model in AUXILIARY else {}
    net: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **settings)
    if model in AUXILIARY:
        setattr(net, "aux_logits", False)  # noqa: B010 (its type is unknown here)
        for head in (getattr(net, name, None) for name in ("aux1", "aux2", "AuxLogits")):
            if head is not None:
                head.forward = _unused
    return net


def _unused(x: object) -> None:
    """An auxiliary head's answer, which nothing asks for."""
