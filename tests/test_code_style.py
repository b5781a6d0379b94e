"""The formatter, the linter and the type checker, so that one command tells whether the project is in order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "arguments", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=lambda arguments: " ".join(arguments)
)
def test_code_is_in_order(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _without_encoding(path: Path) -> list[int]:
    """Lines of calls that read or write text in the encoding of the user's locale."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in named or (isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in NOT_TEXT):
            continue
        given = [*node.args, *named.values()]
        texts = [one.value for part in given for one in ast.walk(part) if isinstance(one, ast.Constant)]
        if name == "read_text":
            bad = "utf-8" not in texts
        elif name == "open":
            bad = not any(one in BINARY for one in texts)
        elif name == "write_text":
            bad = isinstance(node.func, ast.Attribute)  # else it is robustctl.files' own
        else:
            bad = name == "NamedTemporaryFile" or "True" in map(ast.unparse, filter(None, map(named.get, TEXT)))
        if bad and ast.unparse(node.func) not in OURS:
            found.append(node.lineno)
    return found


BINARY = {"rb", "wb", "ab", "rb+", "r+b"}
TEXT = ("text", "universal_newlines")
OURS = {"read_text", "reading.read_text"}  # of robustctl.reading
NOT_TEXT = {"os.open", "Image.open", "archive.open", "members.open", "webbrowser.open", "terminal.open"}


@pytest.mark.parametrize("path", sorted((ROOT / "robustctl").rglob("*.py")), ids=lambda path: path.stem)
def test_text_is_read_and_written_in_an_encoding_that_is_said(path: Path) -> None:
    assert _without_encoding(path) == []


def test_a_text_without_an_encoding_is_found(tmp_path: Path) -> None:
    code = tmp_path / "a.py"
    code.write_text("p.read_text()\np.write_text(x)\nopen(p)\np.open('a')\nrun(c, text=True)\np.open('rb')\n")
    assert _without_encoding(code) == [1, 2, 3, 4, 5]
