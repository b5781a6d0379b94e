"""Evaluation by several processes (torchrun): each attacks its share of the points into a store of its own.

The shares are merged into the evaluation's one store. The next run, of any number of processes, merges the stores that
killed processes left behind, so nothing that was committed is attacked again.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from robustctl.evaluation.store import Store
from robustctl.evaluation.store_key import Key
from robustctl.files import writing
from robustctl.processes import World

PART = ".process"
"""In the name of a store that belongs to one process."""


def fill(world: World, path: Path, key: Key, work: Callable[[Store], object]) -> bool:
    """Let every process do ``work`` on a store of its own, then merge all into the store at ``path``.

    A process without others does nothing here.

    Returns:
        Whether this process goes on with the merged store: only the first one may use it.

    Raises:
        RunError: as ``Store`` does.
    """
    if world.size == 1:
        return True
    if world.leads:
        _merge(path, key)
    world.wait()
    own = path.with_suffix(f"{PART}{world.rank}.sqlite")
    with writing(own):
        shutil.copyfile(path, own)
    with Store(own, key) as store:
        work(store)
    world.wait()
    if world.leads:
        _merge(path, key)
    world.wait()
    return world.leads


def is_part(path: Path) -> bool:
    """Whether a store is one process's own, which another run will merge or has left behind."""
    return PART in path.name


def _merge(path: Path, key: Key) -> None:
    with Store(path, key) as whole:
        for other in sorted(path.parent.glob(f"{path.stem}{PART}*.sqlite")):
            with Store(other, key) as part:
                whole.merge(part)
            other.unlink()
