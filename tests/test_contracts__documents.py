"""The commands that README, docs, recipes and quickstart tell users to type are there, with these options."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from robustctl import cli
from robustctl.cli import quickstart

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").rglob("*.yaml"))]
LINE = re.compile(r"^[#\s$]*(?:\S*/)?(robustctl [a-z].*)$", re.MULTILINE)


def _lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    lines = LINE.findall(joined) + re.findall(r"`(robustctl [^`]+)`", joined)
    return [re.split(r"\s{3,}|\s#\s|\s->|\s\|\s", line)[0].strip() for line in lines]


def _faults(line: str) -> list[str]:
    """Words of a command line that are neither commands nor options of it."""
    command = typer.main.get_command(cli.app)
    faults = []
    for word in shlex.split(line)[1:]:
        commands = getattr(command, "commands", None)  # a group has them
        if word == "COMMAND":
            return []
        if commands and not word.startswith("-"):
            if word not in commands:
                return [word]
            command = commands[word]
        elif word.startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts}
            if word.split("=")[0] not in known | {"--help", "--install-completion"}:
                faults.append(word)
    return faults


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(path: Path) -> None:
    faults = {line: _faults(line) for line in _lines(path.read_text())}
    assert not {line: words for line, words in faults.items() if words}


def test_commands_that_quickstart_suggests_exist() -> None:
    lines = _lines(quickstart.NEXT)
    assert len(lines) >= 5
    assert not [line for line in lines if _faults(line)]


def test_a_misspelt_command_and_option_would_be_found() -> None:
    assert _faults("robustctl evla --union") == ["evla"]
    assert _faults("robustctl eval --onion") == ["--onion"]
    assert _lines("    robustctl eval --union      the newest run") == ["robustctl eval --union"]
