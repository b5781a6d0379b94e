"""The only reader of YAML and JSON texts: bounded in size, depth, aliases and time, whoever wrote them. No torch here.

A text that breaks a bound, or holds a value that is not what its tag says, is one RequestError; YAML's name the line.
"""

import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robustctl.errors import RequestError

MAX_BYTES = 64 << 20
"""Result files of 50,000 points take some megabytes."""
MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
"""Nodes of a YAML text once its aliases are written out."""
MAX_NUMBER_CHARACTERS = 400
SURROGATE = re.compile("[\ud800-\udfff]")
SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same loader, in C if PyYAML was built with it."""


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a regular UTF-8 file.

    Raises:
        FileNotFoundError: there is no such file; what that means is the caller's to say.
        RequestError: it is a pipe, a device or a directory, too large, unreadable, or not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RequestError(f"{_short(path)} is not a regular file")
        if status.st_size > max_bytes:
            raise RequestError(f"{_short(path)} has {status.st_size} bytes, more than the {max_bytes} that are read")
        with path.open("rb") as file:
            return file.read(max_bytes + 1).decode("utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise RequestError(f"{_short(path)} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise RequestError(f"cannot read {_short(path)}: {getattr(error, 'strerror', None) or error}") from None


def is_file(path: Path) -> bool:
    """Whether there is a regular file; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file; raises as ``read_text`` and ``parse_json`` do."""
    return parse_json(read_text(path, max_bytes), _short(path))


def parse_json(text: str, source: str) -> Any:
    """The content of a JSON text.

    Raises:
        RequestError: it is none, is nested too deeply, or holds NaN, infinity, an overlong number, half a character
            or a name twice in one object: readers differ in which of two values they take.
    """
    if _json_depth(text) > MAX_DEPTH:
        raise RequestError(f"{source} is not read: it is nested more than {MAX_DEPTH} deep")
    try:
        content = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{source} is not JSON: {error}") from None
    if "\\u" in text and _has_surrogate(content):
        raise RequestError(f"{source} is not read: it holds half a character (a lone surrogate)")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """The content of a YAML text (safe loader: nothing in it is run).

    Raises:
        RequestError: it is none, breaks a bound or gives a key twice; the message begins with ``source`` and names the
            line.
    """
    return _load(text, source, _OnceLoader)


def compose_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, which know their lines, and its content; raises as ``parse_yaml`` does.

    A key that is given twice is the caller's to find, among the nodes.
    """
    content = _load(text, source, _Loader)
    return yaml.compose(text, SafeLoader), content


def _load(text: str, source: str, loader: Any) -> Any:
    if len(text) > MAX_YAML_BYTES:
        raise RequestError(f"{source} is not read: it has {len(text)} characters, more than {MAX_YAML_BYTES}")
    try:
        _require_bounded(text)
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise RequestError(f"{source} is not YAML: {line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{source} is not YAML: {error}") from None


class _Loader(SafeLoader):  # type: ignore[misc,valid-type]
    """The safe loader, in which a value that does not fit its tag is an error of YAML with its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # the conversions of !!int, !!bool, !!timestamp raise whatever they run into
            problem = f"a value does not fit its tag {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_scalar(self, node: yaml.Node) -> Any:
        value = super().construct_scalar(node)
        if SURROGATE.search(value):
            raise yaml.constructor.ConstructorError(None, None, "half a character (a lone surrogate)", node.start_mark)
        if node.tag in NUMBERS and (":" in value or len(value) > MAX_NUMBER_CHARACTERS):
            problem = "a number is written in base 60 (1:30) or is too long; put quotes around a text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


class _OnceLoader(_Loader):
    """The same loader, for which a key that is given twice is an error of YAML with its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value}: given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass
class _Open:
    """A collection whose end has not come yet: its anchor, and its nodes so far with all aliases written out."""

    anchor: str | None
    nodes: int = 1


def _require_bounded(text: str) -> None:
    """Walk the events of a YAML text before anything is built from it; raises a YAMLError at the first broken bound."""
    sizes: dict[str, int] = {}
    open_: list[_Open] = []
    total = 0
    for event in yaml.parse(text, SafeLoader):
        size = 0
        if isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in open_):
                raise _broken(event, f"the alias *{event.anchor} stands inside what it names")
            size = sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append(_Open(event.anchor))
            if len(open_) > MAX_DEPTH:
                raise _broken(event, f"it is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_.pop()
            size = closed.nodes
            if closed.anchor:
                sizes[closed.anchor] = size
        if open_:
            open_[-1].nodes += size
        total = max(total, size, *(one.nodes for one in open_[-1:]))
        if total > MAX_NODES:
            raise _broken(event, f"with its aliases written out it has more than {MAX_NODES} values")


def _broken(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark = event.start_mark
    line = f"line {mark.line + 1}: " if mark else ""
    return yaml.MarkedYAMLError(problem=line + problem)


def _json_depth(text: str) -> int:
    """How deep brackets are nested, strings apart; a text that is not JSON may give any number."""
    depth = deepest = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        sign = found[0]
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is given twice")
    return content


def _has_surrogate(content: object) -> bool:
    if isinstance(content, str):
        return SURROGATE.search(content) is not None
    if isinstance(content, dict):
        return any(_has_surrogate(one) for pair in content.items() for one in pair)
    return isinstance(content, list) and any(map(_has_surrogate, content))


def _short(path: Path) -> str:
    """The path, cut if it is longer than a message should be."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-80:]}"
