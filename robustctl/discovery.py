"""Finds what exists by looking at files: a module in a package is its own registration, the user's own files too.

Names on the command line and in recipes are module names with ``_`` written as ``-``.
"""

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from robustctl.errors import RequestError, of_users_code
from robustctl.home import home

OWN = ("robustctl.architectures", "robustctl.attacks")
"""Packages to which ``$ROBUSTCTL_HOME/architectures`` and ``$ROBUSTCTL_HOME/attacks`` add files of the user's own."""

MOST_LISTED = 8
"""A longer list of names is not read; the nearest are."""
LISTED_BY = {
    "model": "robustctl models list",
    "recipe": "robustctl recipes list",
    "architecture": "robustctl models architectures",
}


def names(package: str) -> list[str]:
    """List the public modules of a package and the user's own files beside them, sorted, without importing them.

    Args:
        package: dotted name, e.g. ``"robustctl.attacks"``. Only the package itself is imported.
    """
    return sorted({*_shipped(package), *own_files(package)})


def own_files(package: str) -> dict[str, Path]:
    """The user's own files for a package by their names: none for most packages."""
    if package not in OWN:
        return {}
    files = sorted((home() / package.rpartition(".")[2]).glob("*.py"))
    return {file.stem.replace("_", "-"): file for file in files if not file.stem.startswith("_")}


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import the module that ``name`` stands for.

    Args:
        kind: the word for it in the error message, e.g. ``"architecture"``.

    Raises:
        RequestError: no such module (the message suggests the nearest name and lists them all), the user's own file of
            that name fails, or it has the name of a module that robustctl has itself.
    """
    shipped, own = _shipped(package), own_files(package)
    if name in own:
        if name in shipped:
            raise RequestError(f"{own[name]}: robustctl has its own {kind} {name!r}; rename the file")
        with of_users_code(f"{kind} {name!r}: {own[name]} fails with "):
            return run_file(own[name], package.rpartition(".")[2])
    if name not in shipped:
        raise unknown(kind, name, {*shipped, *own})
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def run_file(file: Path, package: str) -> ModuleType:
    """Run a source file as a module of its own, once per process and content; ``package`` keeps equal names apart."""
    digest = hashlib.sha256(str(file.resolve()).encode() + file.read_bytes()).hexdigest()
    key = f"robustctl_own_{package}_{digest[:16]}_{file.stem}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, file)
        assert spec is not None and spec.loader is not None, "a source file has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module  # dataclasses look their module up while they are made
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def _shipped(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    modules = pkgutil.iter_modules(locations) if locations else []
    return [module.name.replace("_", "-") for module in modules if not module.name.startswith("_")]


def unknown(kind: str, name: str, available: Iterable[str]) -> RequestError:
    """The error for a name that does not exist: what was asked, and all names, or of many the three nearest."""
    options = sorted(available)
    if len(options) > MOST_LISTED:
        near = difflib.get_close_matches(name, options, n=3, cutoff=0.0)
        listed = f"The nearest of {len(options)}: {', '.join(near)}."
    else:
        listed = f"Available: {', '.join(options) or 'none'}."
    listing = LISTED_BY.get(kind.partition(" ")[0])
    hint = f"\nhint: {listing} shows all" if listing and len(options) > MOST_LISTED else ""
    return RequestError(f"unknown {kind} {name!r}.{did_you_mean(name, options)} {listed}{hint}")


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest option, or the empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
