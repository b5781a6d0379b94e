"""Any classifier of timm by its name: ``timm/xcit_small_12_p16_224``. Needs the package timm."""

from typing import Any

from torch import nn

from robustctl.errors import RequestError


def build(
    n_classes: int, input_shape: tuple[int, int, int], model: str = "resnet50", depth: int | None = None
) -> nn.Module:
    """A timm model with random weights, under timm's names.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        model: its name in timm.
        depth: number of blocks, where it is another than the name's and the model takes it (XCiT-M12 has no name).

    Raises:
        RequestError: timm is missing or broken, or has no such model.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise RequestError(f"timm/{model} needs the package timm (pip install timm): {error}") from None
    if not timm.is_model(model):
        raise RequestError(f"timm {timm.__version__} has no model {model!r}")
    size: dict[str, Any] = {} if depth is None else {"depth": depth}
    net: nn.Module = timm.create_model(model, pretrained=False, num_classes=n_classes, in_chans=input_shape[0], **size)
    return net
