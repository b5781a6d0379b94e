"""How many images of an evaluation go through a model at once: no more than memory holds."""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from robustctl.devices import is_host
from robustctl.pieces import NO_LIMIT, Pieces

SHARE = 0.5
"""The share of the available memory that one pass may take."""
TRANSIENT = 2.0
"""A pass takes this many times what its forward half keeps: gradients, the workspace of convolutions and gaps between
freed tensors come on top."""
IMAGE_COPIES = 12
"""An attack's own state and its temporaries, in copies of the image."""


def fitting(model: nn.Module, image: Tensor) -> int:
    """Images that a pass with gradients may take, >= 1, so that it takes at most ``SHARE`` of the available memory.

    A CPU needs the bound beforehand: its kernel overcommits memory, and kills instead of refusing. On other
    devices running out is an error that ``Pieces`` survives, so there is none.

    Args:
        model: with frozen parameters. image: (1, c, h, w) on its device.
    """
    available = _available_bytes() if is_host(image.device) else None
    if available is None:
        return NO_LIMIT
    (kept,) = Pieces(1).run(lambda _: _kept_bytes(model, image), 1)
    return max(int(SHARE * available / (TRANSIENT * kept + IMAGE_COPIES * image.nbytes)), 1)


def _kept_bytes(model: nn.Module, image: Tensor) -> int:
    """The bytes that a forward pass of one image keeps for its backward pass; parameters and buffers do not count."""
    fixed = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(image.detach().requires_grad_(True))
    return sum(kept.values())


@functools.cache
def _available_bytes() -> int | None:
    """Memory that this process may still take: the machine's, or its control group's; None if neither says.

    Read once: what freed tensors leave with the process would count as taken later.
    """
    found = []
    machine, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if machine.is_file():
        lines = [line.split() for line in machine.read_text(encoding="utf-8").splitlines()]
        found += [int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"]
    if (group / "memory.max").is_file():
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        if limit != "max":
            found.append(int(limit) - int(used) + int(statistics.get("inactive_file", 0)))
    return max(min(found), 1) if found else None
