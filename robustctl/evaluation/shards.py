"""Evaluation by several processes (torchrun): each attacks its share of the points into a store of its own.

The shares are merged into the evaluation's one store. What a killed process left behind is merged by the next run, of
any number of processes, so nothing that was committed is attacked again.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed

from robustctl.evaluation.store import Key, Store
from robustctl.files import writing

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)  # how long the first process to finish waits for the last


@dataclass(frozen=True)
class Shard:
    """This process among ``world`` processes."""

    rank: int = 0
    world: int = 1

    def share(self, points: list[int]) -> list[int]:
        """This process's part of the points; the parts of all processes are disjoint and cover them."""
        return points[self.rank :: self.world]

    def exchange(self, found: dict[int, Value]) -> dict[int, Value]:
        """What all processes have found, by position; every process calls this and gets the same answer."""
        if self.world == 1:
            return found
        everybody: list[dict[int, Value]] = [{}] * self.world
        torch.distributed.all_gather_object(everybody, found)
        return {position: value for one in everybody for position, value in one.items()}

    def agreed(self, value: Value) -> Value:
        """The first process's value, in every process; every process calls this."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]


ALONE = Shard()


def processes() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def current() -> Shard:
    """Which process this is, by torchrun's environment variables; joins the others on the first call."""
    world = processes()
    if world == 1:
        return Shard()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    return Shard(torch.distributed.get_rank(), world)


def local_device(name: str) -> str:
    """``auto`` is this process's own CUDA device where torchrun gave it a number and there are CUDA devices."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if name == "auto" and local is not None and torch.cuda.is_available() else name


def fill(shard: Shard, path: Path, key: Key, work: Callable[[Store], object]) -> None:
    """Let every process do ``work`` on its own store, then merge all into the store at ``path``.

    Returns in every process once the merged store is there; only the first process may use it then.

    Raises:
        RunError: as ``Store`` does.
    """
    if shard.rank == 0:
        _merge(path, key)
    torch.distributed.barrier()
    own = path.with_suffix(f".shard{shard.rank}.sqlite")
    with writing(own):
        shutil.copyfile(path, own)
    with Store(own, key) as store:
        work(store)
    torch.distributed.barrier()
    if shard.rank == 0:
        _merge(path, key)
    torch.distributed.barrier()


def _merge(path: Path, key: Key) -> None:
    with Store(path, key) as whole:
        for other in sorted(path.parent.glob(f"{path.stem}.shard*.sqlite")):
            with Store(other, key) as part:
                whole.merge(part)
            other.unlink()
