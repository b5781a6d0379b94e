"""Finds what exists by looking at files: a module in a package is its own registration.

Names on the command line and in recipes are module names with ``_`` written as ``-``.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from importlib.util import find_spec
from types import ModuleType

from robustctl.errors import RequestError


def names(package: str) -> list[str]:
    """List the public modules of a package, sorted, without importing them.

    Args:
        package: dotted name, e.g. ``"robustctl.attacks"``. Only the package itself is imported.
    """
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    modules = pkgutil.iter_modules(locations) if locations else []
    return sorted(module.name.replace("_", "-") for module in modules if not module.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import the module that ``name`` stands for.

    Args:
        kind: the word for it in the error message, e.g. ``"architecture"``.

    Raises:
        RequestError: no such module; the message suggests the nearest name and lists them all.
    """
    available = names(package)
    if name not in available:
        raise unknown(kind, name, available)
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def unknown(kind: str, name: str, available: Iterable[str]) -> RequestError:
    """The error for a name that does not exist: what was asked, the nearest name, the whole list."""
    options = sorted(available)
    return RequestError(
        f"unknown {kind} {name!r}.{did_you_mean(name, options)} Available: {', '.join(options) or 'none'}."
    )


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest option, or the empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
