"""The precisions that attacks compute in, and true float32. Nothing here knows a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch

from robustctl.discovery import unknown

Precision = Literal["float32", "bf16"]
PRECISIONS = (*get_args(Precision), "auto")


def pick_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 where the device multiplies in it natively, else float32.

    Raises:
        RequestError: not one of ``PRECISIONS``.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name != "auto":
        return "bf16" if name == "bf16" else "float32"
    return "bf16" if _has_bf16(device) else "float32"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="utf-8").split())


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed as such: no TF32, no autocast; the settings are put back afterwards."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
