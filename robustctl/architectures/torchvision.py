"""Any classifier of torchvision by its name: ``torchvision/densenet161``. Needs the package torchvision."""

from torch import nn

from robustctl.errors import RequestError


def build(n_classes: int, input_shape: tuple[int, int, int], model: str = "resnet50") -> nn.Module:
    """A torchvision model with random weights, under torchvision's names.

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
    net: nn.Module = models.get_model(model, weights=None, num_classes=n_classes)
    return net
