"""Recipes with a ``base``, as in ``base: cifar10/avg``: how it and their own keys become one. One level, no chains."""

from typing import Any

import yaml

KEY = "base"
NOT_INHERITED = "reported"
"""A paper's figures for the base are not about a recipe that stands on it."""


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The base's values with a recipe's own keys.

    Blocks are joined key by key, and a key's value is replaced whole (``train.threats`` with all its norms). A block
    of another ``name`` replaces the base's, as does ``architecture``, whose keys are names; an own null drops a block.
    ``reported`` is never the base's.
    """
    base = {key: block for key, block in base.items() if key != NOT_INHERITED}
    values = {**base, **{key: _block(key, base.get(key), block) for key, block in own.items() if key != KEY}}
    return {key: block for key, block in values.items() if block is not None or key not in own}


def _block(key: str, base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)) or key == "architecture":
        return own
    if "name" in own and own["name"] != base.get("name"):
        return own
    return {**base, **own}


def header(text: str) -> str:
    """The comments that a recipe begins with, each line with its end."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:first])


def whole(text: str, values: dict[str, Any]) -> str:
    """A recipe without ``base``: the header of ``text``, then all its values as YAML, one block a key."""
    return header(text) + "".join(_dumped(key, value) for key, value in values.items())


def _dumped(key: str, value: Any) -> str:
    if not isinstance(value, dict):
        return yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)
    lines = [_line(name, inner) for name, inner in value.items()]
    return f"{key}:\n" + "".join(f"  {line}\n" for line in lines)


def _line(name: Any, value: Any) -> str:
    """``name: value`` in one line, lists and mappings in braces."""
    text = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.strip()[1:-1]
