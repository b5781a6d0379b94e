"""The precisions that attacks compute in. Nothing here knows a model."""

from typing import Literal, get_args

import torch

from robustctl.devices import has_bf16
from robustctl.discovery import unknown

Precision = Literal["float32", "bf16"]
PRECISIONS = (*get_args(Precision), "auto")


def pick_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 if the device multiplies in it natively, else float32.

    Raises:
        RequestError: not one of ``PRECISIONS``.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name != "auto":
        return "bf16" if name == "bf16" else "float32"
    return "bf16" if has_bf16(device) else "float32"
