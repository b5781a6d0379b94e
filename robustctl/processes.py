"""Several processes that train or evaluate one model, started by ``torchrun``; one process is the case of size 1."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustctl.devices import backend, is_host, of_rank, require_present
from robustctl.errors import RequestError

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)  # the first process to finish its share of an evaluation waits for the last


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` 0 writes files and talks."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This process's rows of a batch of ``n``.

        Raises:
            RequestError: ``n`` is not divisible by the number of processes.
        """
        if n % self.size:
            raise RequestError(f"train.batch_size {n} cannot be shared evenly by {self.size} processes")
        own = n // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def share(self, points: list[int]) -> list[int]:
        """This process's part of the points; the parts of all processes are disjoint and cover them."""
        return points[self.rank :: self.size]

    def exchange(self, found: dict[int, Value]) -> dict[int, Value]:
        """The findings of all processes, by position; every process calls this and gets the same answer."""
        if self.size == 1:
            return found
        everybody: list[dict[int, Value]] = [{}] * self.size
        dist.all_gather_object(everybody, found)
        return {position: value for one in everybody for position, value in one.items()}

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes, the same in each."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        """Mean over all processes, the same in each."""
        return self.sum(value) / self.size

    def any(self, flags: list[bool]) -> list[bool]:
        """Each flag, true if it is true in some process."""
        if self.size == 1:
            return flags
        total = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(total, group=_host_group())
        return [bool(flag) for flag in total]

    def gather(self, value: Tensor) -> Tensor:
        """Every process's rows, in the order of the ranks."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: Any) -> Any:
        """The leading process's value, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()

_GROUPS: list[dist.ProcessGroup] = []


def _host_group() -> dist.ProcessGroup:
    """A gloo group for flags, so that they never wait for the device."""
    if not _GROUPS:
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup), "this process is in the group of all"
        _GROUPS.append(group)
    return _GROUPS[0]


def require_one(what: str) -> None:
    """Raise RequestError under torchrun with several processes, for ``what`` cannot be shared out."""
    if count() > 1:
        raise RequestError(f"{what} runs in one process: start it without torchrun")


def count() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> World:
    """Join the processes of ``torchrun`` for an evaluation, on the first call; or be alone.

    The processes exchange Python objects on the host, and are together until they end.
    """
    if count() == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes of ``torchrun`` for a training, and leave them at its end; or be alone."""
    if count() == 1:
        yield World()
        return
    if not is_host(device):
        torch.accelerator.set_device_index(device)
    dist.init_process_group(backend(device))
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        _GROUPS.clear()
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: an accelerator each, unless all are to be on the CPU.

    Raises:
        RequestError: there are more processes than accelerators.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return device
    require_present(own := of_rank(device, int(rank)))
    return own


def share_batch_norm(model: nn.Module) -> None:
    """Make every batch norm of the model take its statistics over the batches of all processes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm2d


class _Sum(torch.autograd.Function):
    """The sum over all processes. So each one's value moves every process's loss, and gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Sum.forward(ctx, grads[0])


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes on any device (``torch.nn.SyncBatchNorm`` refuses the CPU).

    Half precision is normalised in float32, as the built-in one does.
    """

    plain_in_eval = True  # so that a fast copy may fold it

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size = dist.get_world_size()
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Sum.apply(wide.mean((0, 2, 3))) / size
        centred = wide - mean.view(1, -1, 1, 1)
        spread = centred.square().mean((0, 2, 3))
        variance = _Sum.apply(spread) / size
        self._track(mean.detach(), variance.detach(), size * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        out: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, n: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = self.momentum if self.momentum is not None else 1 / (int(self.num_batches_tracked) + 1)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * n / (n - 1), momentum)
