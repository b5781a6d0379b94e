"""Commands of other tools that documents and messages name exist in the installed tools."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "robustctl").rglob("*.py"))]
COMMAND = re.compile(r"(?<![\w/-])hf ((?:[a-z]+ ?)+(?: --[a-z-]+)*)(?=[ `'\".,)]|$)", re.M)
GROUPS = ("auth", "repos")
"""Commands of the client that take a command of their own."""


def named() -> dict[str, str]:
    """Each ``hf`` command that is named somewhere, and the file that names it."""
    found = {}
    for path in FILES:
        for match in COMMAND.finditer(path.read_text(encoding="utf-8")):
            words = match[1].split()
            found[" ".join(words[: 2 if words[0] in GROUPS else 1])] = path.name
    return found


def test_commands_are_found_in_the_documents() -> None:
    assert {"repos create", "auth login", "download", "upload"} <= set(named())


@pytest.mark.parametrize("command", sorted(named()))
def test_the_hubs_client_has_the_command(command: str) -> None:
    client = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()"]
    answer = subprocess.run([*client, *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{named()[command]} names 'hf {command}': {answer.stderr[-300:]}"
