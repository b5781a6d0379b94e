"""Draws the tree of docs/code.md from the package; ``python tests/support/code_map.py`` writes it into the page."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "robustctl"
PAGE = ROOT / "docs" / "code.md"
LONGEST = 85
SENTENCE = re.compile(r"(?<!\bal)(?<!\bSec)(?<!\bAlg)\. ")
BLOCK = re.compile(r"(?<=^```text tree\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring; a long one ends at a bracket, colon, semicolon or comma."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentence = SENTENCE.split(text)[0].rstrip(".").replace("``", "")
    if len(sentence) <= LONGEST:
        return sentence
    ends = [mark.start() for mark in re.finditer(r" \(|[:;] ", sentence)] + [sentence[:LONGEST].rfind(", "), LONGEST]
    return sentence[: next(end for end in ends if 12 < end <= LONGEST)]


def tree(folder: Path = PACKAGE, depth: int = 0) -> list[str]:
    """One line per folder and file: its name and its phrase."""
    indent = "  " * depth
    lines = [f"{indent}{folder.name + '/':<{26 - len(indent)}} {phrase(folder / '__init__.py')}".rstrip()]
    inner = indent + "  "
    for file in sorted(folder.glob("*.py")):
        if file.stem != "__init__":
            lines.append(f"{inner}{file.name:<{26 - len(inner)}} {phrase(file)}".rstrip())
    for path in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += tree(path, depth + 1)
    return lines


def drawn() -> str:
    """The whole tree as text."""
    return "\n".join(tree()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: drawn(), PAGE.read_text(), count=1))
