"""Trainings in two processes: ``tests/training/test_training__processes.py`` starts them by torchrun.

``CASE-RANK.pt`` has the weights of a method after a few steps. The directories ``NAME-whole`` and ``NAME-shared`` are
runs with the optimiser's state whole and shared out; the second one was stopped and went on. Each process writes the
bytes of its part, ``RANK.json``.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from method_cases import METHODS, cases
from torch import Tensor

from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.devices import HOST
from robustctl.processes import World, world
from robustctl.recipe.outer import Hat
from robustctl.spec import ModelSpec
from robustctl.training.build import build_parts
from robustctl.training.footprint import optimizer_state
from robustctl.training.loop import Loop

STEPS, STOP = 12, 7
STATES: dict[str, dict[str, Any]] = {
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


FEW = 7
"""Steps; five make an epoch."""
CAREFUL = {"optim": {"lr": 0.02, "weight_decay": 5e-4}}
HAT = {"outer": {"name": "hat", "helper": "given"}, "attack": {"name": "apgd", "steps": 2, "start": "random"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **cases("e-at", but=("mng-ac",)),  # which is refused in several processes
    "score": (METHODS["e-at"], {"outer": {"name": "score"}}),
    "hat": (METHODS["e-at"], HAT),
}


CLIP = {"fare": {"name": "fare"}, "tecoa": {"name": "avg"}}


def weights(case: str, directory: Path, w: World) -> dict[str, Tensor]:
    """The weights that a method reaches in a few steps."""
    method, changes = CASES[case]
    settings = fixtures._settings_for(method, **{"precision": "float32", **CAREFUL, **changes})
    torch.manual_seed(5)
    helper = {"helper": build(fixtures.SPEC)} if isinstance(settings.outer, Hat) else {}
    torch.manual_seed(0)
    model, data = build(fixtures.SPEC), fixtures.random_data()
    parts = build_parts(model, fixtures.SPEC, data, settings, seed=0, device=HOST, world=w, **helper)
    directory.mkdir(parents=True, exist_ok=True)
    Loop(parts, directory).run(FEW)
    return model.state_dict()


def clip_weights(method: dict[str, Any], directory: Path, w: World) -> dict[str, Tensor]:
    """The weights that a method on CLIP's image tower reaches in a few steps, and the start's."""
    args = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "projection": 8}
    values = {"architecture": {"name": "clip", "args": args}, "input_shape": (3, 8, 8), "n_classes": 5}
    spec = ModelSpec.model_validate({**values, "dataset": "cifar10"})
    attack = {"name": "pgd", "steps": 2, "step": dict.fromkeys(fixtures.RADII, 0.5), "start": "random"}
    train = {"threats": fixtures.RADII, "epochs": 2, "batch_size": 4, "freeze": ["head"]}
    changes = {"train": train, "attack": attack, "optim": {"lr": 0.005, "weight_decay": 0.01}, "dataset": "cifar10"}
    settings = fixtures._settings_for(method, **changes)
    torch.manual_seed(0)
    x, y = torch.rand((36, 3, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(36) % 5
    model, data = build(spec), ImageData(x, y, 5, "random", "train", torch.arange(36))
    start = {f"start.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    directory.mkdir(parents=True, exist_ok=True)
    Loop(build_parts(model, spec, data, settings, seed=0, device=HOST, world=w), directory).run(FEW)
    return {**model.state_dict(), **start}


def loop_of(name: str, directory: Path, w: World, *, shard: bool) -> Loop:
    """A training of E-AT; it goes on if the directory has its state."""
    settings = fixtures._settings_for({"name": "e-at"}, **STATES[name])
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
        if sys.argv[2:]:
            for case, method in CLIP.items():
                torch.save(clip_weights(method, directory / case, w), directory / f"{case}-{w.rank}.pt")
            return
        for case in CASES:
            torch.save(weights(case, directory / case, w), directory / f"{case}-{w.rank}.pt")
        found = {}
        for name in STATES:
            loop_of(name, directory / f"{name}-whole", w, shard=False).run(STEPS)
            loop_of(name, directory / f"{name}-shared", w, shard=True).run(STOP)
            loop = loop_of(name, directory / f"{name}-shared", w, shard=True)
            loop.run(STEPS)
            found[name] = {"held": held(loop), "foretold": optimizer_state(loop.parts)}
        (directory / f"{w.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
