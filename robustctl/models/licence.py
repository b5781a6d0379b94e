"""Licences of weights: the hub's identifiers, and the one that a model card states. No torch here."""

import re
from pathlib import Path
from typing import Any

from robustctl.errors import RequestError
from robustctl.reading import parse_yaml

# fmt: off
LICENCES = (  # identifiers of the hub that a model's weights may have
    "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-2.0", "gpl-3.0", "isc", "lgpl-3.0", "mit",
    "mpl-2.0", "unlicense", "zlib",
)
# fmt: on


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the top of a card; empty if there is none or it is damaged."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL | re.MULTILINE)
    try:
        content = parse_yaml(found[1], "the front matter") if found else None
    except RequestError:
        return {}
    return content if isinstance(content, dict) else {}


def licence_of(card: Path) -> str | None:
    """The licence that a model card states, or None."""
    if not card.is_file():
        return None
    licence = front_matter(card.read_text(encoding="utf-8", errors="replace")).get("license")
    return licence if isinstance(licence, str) else None
