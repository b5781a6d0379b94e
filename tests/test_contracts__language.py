"""House rules of the language that a test can check: how sentences begin, and phrases that hide who does what."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "robustctl").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# A sentence begins with who or what acts, not with a relative clause.
OPENING = re.compile(r"(?:Of|What|Whose|Which|Who|Those)\b|None(?! of)\b|As `|That (?:is|of)\b")
PHRASES = re.compile(r"\b(?:that of|those of|of which|none where|those where|one a point)\b", re.IGNORECASE)
SECTION = re.compile(r"^\s*(?:Args|Attributes|Raises|Returns|Yields):\s*", re.MULTILINE)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(path: Path) -> Iterator[str]:
    """Docstrings and comments of a module."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT
    ]
    yield "\n".join(token.string.lstrip("# ") for token in comments)


def _messages(path: Path) -> Iterator[str]:
    """All other texts of a module."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def _header(path: Path) -> str:
    lines = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    return " ".join(lines)


def _page(path: Path) -> str:
    """The prose of a page, without code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "x", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", SECTION.sub("\n\n", text)):
        for sentence in re.split(r"(?<!et al\.)(?<=[.!?])\s+", " ".join(paragraph.split())):
            yield sentence.lstrip("#*-|> ")


def faults(text: str) -> list[str]:
    """Sentences of the text that break a rule."""
    found = [sentence for sentence in _sentences(text) if OPENING.match(sentence) or PHRASES.search(sentence)]
    return [sentence[:120] for sentence in found if not sentence.rstrip().endswith("?")]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_docstrings_comments_and_messages_keep_the_rules_of_the_language(path: Path) -> None:
    assert [fault for text in _prose(path) for fault in faults(text)] == []
    assert [text for text in _messages(path) if PHRASES.search(text)] == []


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_a_recipe_begins_with_a_sentence_and_keeps_the_rules(path: Path) -> None:
    assert faults(_header(path)) == []
    assert re.search(r"\b(?:\w+s|are)\b", next(_sentences(_header(path))))


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_page_keeps_the_rules(path: Path) -> None:
    assert faults(_page(path)) == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("What a step spends. It is small.", False),
        ("The cost is that of a step.", False),
        ("Of several values the highest.", False),
        ("The cost of a step is small.", True),
        ("What is attacked?", True),
    ],
)
def test_the_rules_find_what_they_are_for(text: str, kept: bool) -> None:
    assert (faults(text) == []) is kept
