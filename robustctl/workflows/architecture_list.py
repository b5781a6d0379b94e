"""The architectures that can be named, with their arguments."""

import inspect
from dataclasses import dataclass
from pathlib import Path

from robustctl import discovery
from robustctl.errors import RequestError

PACKAGE = "robustctl.architectures"


@dataclass(frozen=True)
class ListedArchitecture:
    """One architecture.

    Attributes:
        name: the name that commands and recipes use; a library's name ends in ``/MODEL``.
        arguments: its keyword arguments with their defaults, as ``depth=28, width=10``.
        summary: what it is, or what is wrong with a file of the user's own.
        own: the user's own file, if it is one.
    """

    name: str
    arguments: str
    summary: str
    own: Path | None = None


def architecture_list() -> list[ListedArchitecture]:
    """All architectures by name, the user's own included."""
    return [_listed(name) for name in discovery.names(PACKAGE)]


def _listed(name: str) -> ListedArchitecture:
    own = discovery.own_files(PACKAGE).get(name)
    try:
        module = discovery.load(PACKAGE, name, "architecture")
    except RequestError as error:
        return ListedArchitecture(name, "", str(error), own)
    if not hasattr(module, "build"):
        return ListedArchitecture(name, "", f"{own} has no function build(n_classes, input_shape, ...)", own)
    given = list(inspect.signature(module.build).parameters.values())[2:]
    library = next((one for one in given if one.name == "model"), None)
    arguments = ", ".join(_argument(one) for one in given if one is not library)
    about = (module.__doc__ or module.build.__doc__ or "").strip().partition("\n")[0]
    summary = f"{about} ({own})" if own else about
    return ListedArchitecture(f"{name}/MODEL" if library else name, arguments or "no arguments", summary, own)


def _argument(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
