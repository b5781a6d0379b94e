"""How many images go through a model at once: no more than memory holds, and fewer after running out of it."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustctl.devices import is_host, out_of_memory, release_memory
from robustctl.errors import RunError

Result = TypeVar("Result")

SHARE = 0.5
"""The share of the available memory that one pass may take."""
TRANSIENT = 2.0
"""A pass takes this many times what its forward half keeps: gradients, the workspace of convolutions and gaps between
freed tensors come on top."""
IMAGE_COPIES = 12
"""An attack's own state and its temporaries, in copies of the image."""
NO_LIMIT = 2**31


class Pieces:
    """Does work on slices of a batch; after running out of memory on half as many rows, from there on.

    The rows of the work must not depend on each other: then the results are the same, however often it was halved.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[slice], Result], n: int) -> list[Result]:
        """Results of ``work`` on consecutive slices that cover ``range(n)``.

        Raises:
            RunError: out of memory with a single row. Other errors of ``work`` go on.
        """
        results: list[Result] = []
        start = 0
        while start < n:
            stop = min(start + self.size, n)
            try:
                results.append(work(slice(start, stop)))
                start = stop
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            # Only here, outside the handler, is the error gone, and with its traceback all that the failed pass held.
            self._halve(stop - start)
        return results

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise RunError("out of memory with a single image; what was done is kept")
        self.size = math.ceil(failed / 2)
        release_memory()


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
