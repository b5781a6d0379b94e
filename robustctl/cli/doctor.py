"""Says what is installed and what works."""

from collections.abc import Iterator
from typing import Annotated

import typer

from robustctl import terminal

Row = tuple[str, str]

# Packages that only some commands and models need, and what to say if one is missing.
OPTIONAL = {
    "matplotlib": "not installed; only robustctl plot needs it: pip install 'robustctl[plot]'",
    "transformers": "not installed; only CLIPs need it: pip install 'robustctl[clip]'",
    "timm": "not installed; only the models timm/... need it: pip install timm",
    "torchvision": "not installed; photographs and the models torchvision/... need it: pip install torchvision",
}


def command(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the client.")] = False,
) -> None:
    """Say what is installed, which device there is, which folders are used, whether the hub answers and whose token it
    is."""
    for label, value in (*_versions(), *_device(), *_places(), *_hub(offline)):
        terminal.show(f"{label:18} {value}")


def _versions() -> Iterator[Row]:
    import platform
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "robustctl", version("robustctl")
    optional = {f"{name}{_bounds(name)}": use for name, use in OPTIONAL.items()}
    for text in [*(text for text in requires("robustctl") or [] if ";" not in text), *optional]:
        needed = Requirement(text)
        try:
            found = version(needed.name)
            fits = found.split("+")[0] in needed.specifier
            yield needed.name, found if fits else f"{found}, but {needed.specifier} is needed"
        except PackageNotFoundError:
            yield needed.name, optional.get(text, f"missing; pip install '{needed}'")


def _bounds(name: str) -> str:
    """The versions of an optional package that fit, if one of the extras says it."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    extras = (Requirement(text) for text in requires("robustctl") or [] if ";" in text)
    return next((str(extra.specifier) for extra in extras if extra.name == name), "")


def _device() -> Iterator[Row]:
    import os

    import torch

    from robustctl.devices import inventory

    found = inventory()
    yield from found.items()
    if not found:
        yield "device", f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads (torch sees no accelerator)"


def _places() -> Iterator[Row]:
    import os
    import shutil
    from pathlib import Path

    from robustctl import runs
    from robustctl.models.find import home

    for label, path in (("models", home()), ("runs", runs.root().absolute())):
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(there).free / 1e9
        writable = "" if os.access(there, os.W_OK) else ", NOT writable"
        yield label, f"{path}{'' if Path(path).exists() else ' (not made yet)'}, {free:.0f} GB free{writable}"


def _hub(offline: bool) -> Iterator[Row]:
    from robustctl.errors import RobustctlError
    from robustctl.hub import client

    if offline or client.is_offline():
        yield "hub", f"{client.shown_endpoint()}, not asked ({'--offline' if offline else 'HF_HUB_OFFLINE'})"
        yield "token", "configured" if client.own_token() else "none"
        return
    if not client.own_token():
        answers = client.answers()
        yield "hub", f"{client.shown_endpoint()} {'answers' if answers else 'does not answer'}"
        yield "token", "none; pushing and private repos need one: set HF_TOKEN, or hf auth login"
        return
    try:
        who = client.identity()
        yield "hub", f"{client.shown_endpoint()} answers"
        others = f", organisations {', '.join(who.organisations)}" if who.organisations else ""
        yield "token", f"of {who.name}, role {who.role}{others}"
    except RobustctlError as error:
        yield "hub", str(error)
