"""The state of a training on disk: one file, replaced atomically, from which a run goes on bit for bit (on the CPU)."""

from pathlib import Path
from typing import Any

import torch

from robustctl.errors import RequestError
from robustctl.files import atomic_path, writing

STATE = Path("state") / "last.pt"


def save(directory: Path, state: dict[str, Any]) -> None:
    """Write the state; a kill at any moment leaves the old file or the new one.

    Raises:
        RunError: no space or no permission.
    """
    path = directory / STATE
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load(directory: Path) -> dict[str, Any] | None:
    """Read the state (tensors, numbers, text and containers of them, no code), or None where there is none.

    Raises:
        RequestError: the file is damaged.
    """
    path = directory / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RequestError(f"cannot read {path}: {error}; start the run again without --resume") from None
    return state
