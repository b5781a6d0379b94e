"""Somebody who has pulled a model evaluates it as its publisher did, and reads what is claimed for it."""

import re
import shlex
from pathlib import Path

import pytest
from claimed import adopt, change_json, claim_of
from command import robust
from hub_server import Server

from robustctl import runs
from robustctl.results import union as results
from robustctl.runs import Run


@pytest.fixture
def pulled(hub: Server, claimed_run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The commands that ``pull`` suggests."""
    assert robust("-q", "push", claimed_run.path, "--repo", "alice/m", "--allow-flags") == 0
    capsys.readouterr()
    assert robust("-q", "pull", "alice/m") == 0
    return re.findall(r"^next: robustctl (.*)$", capsys.readouterr().out, re.MULTILINE)


def test_the_commands_that_pull_suggests_work_and_give_the_published_result(
    pulled: list[str], claimed_run: Run
) -> None:
    verify, evaluate = pulled
    assert robust("-q", *shlex.split(verify), "--sample", 6, "--seed", 1) == 0
    assert robust("-q", *shlex.split(evaluate)) == 0
    (mine,) = (runs.root() / "eval" / "alice--m").glob("*.json")
    (published,) = (claimed_run.path / "eval").glob("*.json")
    first, second = results.read(mine), results.read(published)
    assert (first.points, first.attack) == (second.points, second.attack)


def test_what_is_typed_beside_like_wins(shelf: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    more = ("--n", 5, "--norms", "linf,l1", "--eps", "linf=0.1", "--json", out)
    assert robust("-q", "eval", shelf, "--like", "published", *more) == 0
    made = results.read(out)
    assert {norm: one.eps_text for norm, one in made.norms.items()} == {"linf": "0.1", "l1": "0.5"}
    assert (made.data.n, made.attack.name) == (5, "fast")


def test_like_takes_the_file_of_a_result_too(shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert robust("-q", "eval", "digits-linf", "--like", claim_of(shelf), "--n", 5, "--json", out) == 0
    assert results.read(out).norms["linf"].eps_text == "0.2"


@pytest.mark.parametrize("like", ["published", "nothing.json"])
def test_like_without_anything_to_be_like_is_a_wrong_request(model_dir: Path, like: str) -> None:
    assert robust("-q", "eval", model_dir, "--like", like) == 2


def test_images_of_the_publisher_are_asked_for(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(claim_of(shelf), lambda content: content["data"].update(source="local data mine"))
    adopt(shelf)
    assert robust("-q", "eval", shelf, "--like", "published") == 2
    assert "--data FOLDER" in capsys.readouterr().err


def test_show_prints_what_is_claimed_and_how_it_was_verified(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "show", shelf) == 0
    out = capsys.readouterr().out
    assert "linf:0.2 at most 47.5 %, l2:0.45 at most" in out and "not verified here" in out
    assert robust("-q", "verify", shelf, "--sample", 6, "--seed", 1) == 0
    assert robust("models", "show", shelf) == 0
    assert "confirmed here on 20" in capsys.readouterr().out
