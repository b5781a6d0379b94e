"""Training methods and settings beside them, as small cases by name, for tests that must hold for each of them."""

from collections.abc import Collection
from typing import Any

Block = dict[str, Any]

METHODS: dict[str, Block] = {
    "at": {"name": "at"},
    "avg": {"name": "avg"},
    "e-at": {"name": "e-at"},
    "fgsm-previous": {"name": "fgsm", "start": "previous", "step": 1.0},
    "fgsm-uniform": {"name": "fgsm", "start": "uniform", "step": 1.25},
    "free": {"name": "free", "replays": 2},
    "max": {"name": "max"},
    "mixed": {"name": "mixed"},
    "mixed-margin": {"name": "mixed", "choice": "margin"},
    "mng-ac": {"name": "mng-ac", "rate": 0.01},
    "msd": {"name": "msd"},
    "natural": {"name": "natural"},
    "ramp": {"name": "ramp", "pair": ["linf", "l1"], "weight": 0.5},
    "ramp-auto": {"name": "ramp", "pair": "auto", "weight": 0.5, "auto_steps": 2},
    "rcrt": {"name": "rcrt", "order": ["linf", "l2", "l1"], "every": 1},
    "sat": {"name": "sat"},
    "prl": {"name": "prl", "samples": 3, "rho": 0.5},
    "z-mc": {"name": "z-mc", "samples": 3, "q": 5},
    "z-ps": {"name": "z-ps", "samples": 3, "q": 5, "leapfrog": 2},
}
EXTRAS: dict[str, Block] = {
    "projection": {"projection": {"beta": 0.5}, "pretrain": {"epochs": 1, "lr": 0.05}},
    "average": {"average": {"decay": 0.9}, "augment": {"crop": 1, "flip": True, "cutout": 3}},
    "mixup": {"augment": {"mixup": 1.4}, "regularize": {"l1": 1e-5, "l2": 1e-4}},
    "trades": {"outer": {"name": "trades"}, "attack": {"name": "apgd", "steps": 2, "start": "random"}},
    "mart": {"outer": {"name": "mart"}},
    "awp": {"awp": {"gamma": 0.01}},
    "adam": {"optim": {"name": "adam", "lr": 0.001, "weight_decay": 0.0}},
    "bf16": {"precision": "bfloat16"},
}


def cases(extras_with: str, but: Collection[str]) -> dict[str, tuple[Block, Block]]:
    """Each method's block with no other setting, then each extra setting with one method; by their names.

    Args:
        extras_with: the method of the extra settings.
        but: names that are left out.
    """
    methods = {name: (block, {}) for name, block in METHODS.items()}
    extras = {name: (METHODS[extras_with], changes) for name, changes in EXTRAS.items()}
    return {name: case for name, case in {**methods, **extras}.items() if name not in but}
