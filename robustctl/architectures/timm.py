"""Any classifier of timm by its name: ``timm/xcit_small_12_p16_224``. Needs the package timm."""

from functools import partial
from typing import Any

from torch import nn

from robustctl.errors import RequestError


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    model: str = "resnet50",
    depth: int | None = None,
    window_size: int | None = None,
    norm_eps: float | None = None,
    image_size: int | None = None,
    global_pool: str | None = None,
) -> nn.Module:
    """Build a timm model with random weights, under timm's names.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        model: its name in timm.
        depth: number of blocks, if it is another than the name's and the model takes it (XCiT-M12 has no name).
        window_size: side of a Swin's windows in tokens, if it is another than the name's.
        norm_eps: epsilon of the layer norms, if it is another than the model's own.
        image_size: side of the images of a ViT, if it is another than the name's.
        global_pool: how a ViT pools its tokens (``token``, ``avg``), if it is another way than the model's own.

    Raises:
        RequestError: timm is missing or broken, or has no such model.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise RequestError(f"timm/{model} needs the package timm (pip install timm): {error}") from None
    if not timm.is_model(model):
        raise RequestError(f"timm {timm.__version__} has no model {model!r}")
    own: dict[str, Any] = {
        "depth": depth,
        "window_size": window_size,
        "img_size": image_size,
        "global_pool": global_pool,
    }
    if norm_eps is not None:
        own["norm_layer"] = partial(nn.LayerNorm, eps=norm_eps)
    own = {name: value for name, value in own.items() if value is not None}
    net: nn.Module = timm.create_model(model, pretrained=False, num_classes=n_classes, in_chans=input_shape[0], **own)
    return net
