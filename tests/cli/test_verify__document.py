"""The commands of docs/verify.md, one after the other, against a hub on the loopback."""

import re
import shlex
from pathlib import Path

import pytest
from command import robust
from hub_server import Server

PAGE = Path(__file__).parents[2] / "docs" / "verify.md"


@pytest.mark.slow
def test_the_story_of_the_page_can_be_typed(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "runs"))
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 9
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "robustctl"
        assert robust("-q", *arguments) == 0, line
    assert (tmp_path / "site" / "index.html").is_file()
    (result,) = (path for path in (tmp_path / "runs" / "eval" / "alice--digits").glob("standard-*.json"))
    assert robust("-q", "propose", "alice/digits", "--result", result) == 0
    assert hub.repos["alice/digits"].pull_requests == 1
