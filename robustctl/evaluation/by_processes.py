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


def fill(world: World, path: Path, key: Key, work: Callable[[Store], object]) -> None:
    """Let every process do ``work`` on its own store, then merge all into the store at ``path``.

    Returns in every process once the merged store is there; only the first process may use it then.

    Raises:
        RunError: as ``Store`` does.
    """
    if world.leads:
        _merge(path, key)
    world.wait()
    own = path.with_suffix(f".process{world.rank}.sqlite")
    with writing(own):
        shutil.copyfile(path, own)
    with Store(own, key) as store:
        work(store)
    world.wait()
    if world.leads:
        _merge(path, key)
    world.wait()


def _merge(path: Path, key: Key) -> None:
    with Store(path, key) as whole:
        for other in sorted(path.parent.glob(f"{path.stem}.process*.sqlite")):
            with Store(other, key) as part:
                whole.merge(part)
            other.unlink()
