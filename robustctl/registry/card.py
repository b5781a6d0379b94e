"""Model cards."""

from pathlib import Path
from typing import Any

import yaml

FENCE = "---"


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the top of a card; empty where there is none or it is damaged."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != FENCE or FENCE not in lines[1:]:
        return {}
    try:
        content = yaml.safe_load("\n".join(lines[1 : lines.index(FENCE, 1)]))
    except (yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def licence_of(card: Path) -> str | None:
    """The licence that a model card states, or None."""
    if not card.is_file():
        return None
    licence = front_matter(card.read_text(encoding="utf-8", errors="replace")).get("license")
    return licence if isinstance(licence, str) else None
