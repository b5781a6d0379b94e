"""Code of the user's own, ``FILE.py:NAME`` or ``package.module:NAME``, which runs only if the user names it.

A model directory or a repo may say that its model is built by such code (``CodeRecord``): that is shown, never run.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from robustctl.discovery import did_you_mean, run_file
from robustctl.errors import RequestError, of_users_code

Scalar = bool | int | float | str


@dataclass(frozen=True)
class UserCode:
    """One function, class or object in a file of the user's.

    Attributes:
        text: as the user wrote it.
        file: the source file.
        name: what in it.
        module: dotted name, if the user gave one instead of a file.
        args: keyword arguments that the user wrote behind the name.
    """

    text: str
    file: Path
    name: str
    module: str | None = None
    args: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """The name of a model or an attack that it makes: ``net.build``."""
        return f"{self.file.stem}.{self.name}"

    @cached_property
    def sha256(self) -> str:
        """Hash of the source file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> Any:
        """Run the file, once per process, and return what has the name.

        Raises:
            RequestError: the file raises an error, or has nothing of that name.
        """
        place = Path.cwd() if self.module else self.file.parent
        with _importable(place), of_users_code(f"{self.text}: {self.file} fails with "):
            loaded = importlib.import_module(self.module) if self.module else run_file(self.file, "code")
        if not hasattr(loaded, self.name):
            near = did_you_mean(self.name, [name for name in vars(loaded) if not name.startswith("_")])
            raise RequestError(f"{self.text}: {self.file} has no {self.name!r}.{near}")
        return getattr(loaded, self.name)


def parse(option: str, text: str) -> UserCode:
    """Read ``path/net.py:build``, ``package.module:build`` or either with arguments, ``net.py:build(width=8)``.

    Args:
        option: for messages.

    Raises:
        RequestError: it has another form, or there is no such file or module.
    """
    place, colon, call = text.rpartition(":") if "(" not in text else _cut(text)
    name, args = _call(option, text, call)
    if not colon or not place or not name.isidentifier():
        raise RequestError(f"{option} {text!r} is not of the form FILE.py:NAME or package.module:NAME")
    if place.endswith(".py") or "/" in place:
        file = Path(place).expanduser()
        if not file.is_file():
            raise RequestError(f"{option} {text}: there is no file {file}")
        return _readable(UserCode(text, file, name, args=args), option)
    with _importable(Path.cwd()):
        try:
            found = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise RequestError(f"{option} {text}: there is no module {place!r}; for a file write {place}.py:{name}")
    return _readable(UserCode(text, Path(found.origin), name, place, args), option)


def _readable(code: UserCode, option: str) -> UserCode:
    try:
        code.sha256  # noqa: B018
    except OSError as error:
        raise RequestError(f"{option} {code.text}: cannot read {code.file}: {error.strerror}") from None
    return code


_GRANTED: list[UserCode] = []


@contextmanager
def granted(code: UserCode | None) -> Iterator[None]:
    """Inside, models that are built by code may be built by this one, which the user has named."""
    if code is None:
        yield
        return
    _GRANTED.append(code)
    try:
        yield
    finally:
        _GRANTED.pop()


def current() -> UserCode | None:
    """The code that the user has named for models, if any."""
    return _GRANTED[-1] if _GRANTED else None


def _cut(text: str) -> tuple[str, str, str]:
    head, bracket, tail = text.partition("(")
    place, colon, name = head.rpartition(":")
    return place, colon, name + bracket + tail


def _call(option: str, text: str, call: str) -> tuple[str, dict[str, Scalar]]:
    """Name and keyword arguments of ``build`` or ``build(width=8)``."""
    name, bracket, _ = call.partition("(")
    if not bracket:
        return call, {}
    try:
        tree = ast.parse(call, mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args or any(keyword.arg is None for keyword in tree.keywords):
            raise ValueError
        args = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except (SyntaxError, ValueError):
        raise RequestError(f"{option} {text!r}: arguments are written as in {name}(width=8, act='relu')") from None
    for key, value in args.items():
        if not isinstance(value, bool | int | float | str):
            raise RequestError(f"{option} {text!r}: {key} is no number, text, True or False")
    return name, args


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Inside, modules beside the user's file can be imported, as when Python runs it."""
    sys.path.insert(0, str(directory.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(directory.resolve()))
