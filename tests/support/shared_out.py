"""Trains on two processes with the optimiser's state whole and shared out; ``tests/training/test_optim__shared.py``
starts it by torchrun.

Each process writes the bytes of its state, ``RANK.json``; the directories ``NAME-whole`` and ``NAME-shared`` are runs,
and the second one was stopped and went on.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch

from robustctl.architectures import build
from robustctl.devices import HOST
from robustctl.processes import World, world
from robustctl.training.build import build_parts
from robustctl.training.footprint import optimizer_state
from robustctl.training.loop import Loop

STEPS, STOP = 12, 7
CASES: dict[str, dict[str, Any]] = {
    "sgd": {
        "projection": {"beta": 0.5},
        "optim": {"lr": 0.02, "weight_decay": 5e-4},
    },  # it has two optimisers; five steps make a pass
    "adam": {
        "optim": {"name": "adam", "lr": 0.001, "weight_decay": 1e-3, "decay_on": "weights"},
        "average": {"decay": 0.9},
    },
}
_SPEC = importlib.util.spec_from_file_location("training_fixtures", Path(__file__).parents[1] / "training/conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
fixtures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fixtures)


def loop_of(name: str, directory: Path, w: World, *, shard: bool) -> Loop:
    """A training of E-AT; it goes on if the directory has its state."""
    settings = fixtures._settings_for({"name": "e-at"}, **CASES[name])
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"shard": shard, "epochs": 3})})
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build(fixtures.SPEC)
    loop = Loop(
        build_parts(model, fixtures.SPEC, fixtures.random_data(), settings, seed=0, device=HOST, world=w), directory
    )
    loop.resume()
    return loop


def held(loop: Loop) -> int:
    """Bytes of the optimisers' states in this process."""
    states = [getattr(one, "optim", one).state for one in loop.optimizers.values()]
    tensors = [tensor for state in states for row in state.values() for tensor in row.values() if tensor is not None]
    outer = [one.state for one in loop.optimizers.values() if hasattr(one, "optim")]
    assert not any(outer), "a second copy"
    return sum(tensor.nbytes for tensor in tensors if tensor.dim())


def main(directory: Path) -> None:
    with world(HOST) as w:
        found = {}
        for name in CASES:
            loop_of(name, directory / f"{name}-whole", w, shard=False).run(STEPS)
            loop_of(name, directory / f"{name}-shared", w, shard=True).run(STOP)
            loop = loop_of(name, directory / f"{name}-shared", w, shard=True)
            loop.run(STEPS)
            found[name] = {"held": held(loop), "foretold": optimizer_state(loop.parts)}
        (directory / f"{w.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
