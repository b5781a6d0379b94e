"""Where a push goes: the lines of the card that load it, somebody else's repo, organisations."""

import json
import re
from pathlib import Path

import pytest
import torch
from command import robust
from hub_server import Server

import robustctl
from robustctl import checkpoint
from robustctl.models.mixin import RobustClassifier
from robustctl.runs import Run


def address(card: str) -> str:
    """What the card hands to ``load_model``."""
    found = re.search(r'load_model\("([^"]*)"\)', card)
    assert found
    return found[1]


def same(path: Path, name: str) -> bool:
    x = torch.rand(2, 1, 8, 8)
    return torch.equal(robustctl.load_model(name)(x), checkpoint.load_model(path)[0](x))


def test_the_lines_of_a_card_on_a_branch_load_that_branch(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m", "--revision", "v1") == 0
    card = hub.read("alice/m", "README.md", "v1").decode()
    assert address(card) == "alice/m@v1"
    assert 'RobustClassifier.from_pretrained("alice/m", revision="v1")' in card
    assert same(run.path, address(card))


def test_the_card_of_a_pull_request_says_that_it_has_to_be_merged(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m", "--create-pr") == 0
    card = hub.read("alice/m", "README.md", "refs/pr/1").decode()
    assert "Once the pull request that brings this card is merged:" in card
    assert address(card) == "alice/m"
    assert "pull request" not in card.replace("Once the pull request that brings this card is merged:", "")


def test_the_lines_of_a_card_in_a_directory_load_it_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert robust("push", "--repo", f"file://{tmp_path}/share/m") == 0
    card = (tmp_path / "share" / "m" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "# m\n" in card
    monkeypatch.chdir(tmp_path / "share" / "m")
    assert same(run.path, address(card))
    assert RobustClassifier.from_pretrained(".")


def test_a_pull_request_may_be_made_to_somebody_elses_repo(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("push", "--repo", "bob/m", "--create-pr") == 2
    assert "not to bob" in capsys.readouterr().err
    hub.add("bob/m", {"README.md": b"# Bob's\n"})
    assert robust("push", "--repo", "bob/m") == 2
    assert robust("push", "--repo", "bob/m", "--create-pr") == 0
    assert "bob/m/discussions/1" in capsys.readouterr().out
    assert "# Bob's\n" in hub.read("bob/m", "README.md", "refs/pr/1").decode()
    assert hub.read("bob/m", "README.md") == b"# Bob's\n"


def test_an_organisation_in_which_the_user_only_reads_is_refused(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.roles["team"] = "read"
    assert robust("push", "--repo", "team/m") == 2
    assert "alice may only read in team" in capsys.readouterr().err
    assert not hub.repos
    hub.add("team/m", {})
    assert robust("push", "--repo", "team/m", "--create-pr") == 0


def test_a_repo_that_exists_keeps_its_visibility(hub: Server, run: Run) -> None:
    hub.add("alice/m", {}, private=True)
    assert robust("push", "--repo", "alice/m") == 0
    assert hub.repos["alice/m"].private
    assert json.loads(hub.read("alice/m", "config.json"))["dataset"] == "digits"
