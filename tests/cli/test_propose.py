"""Results of others come to a repo as pull requests, with their witnesses, and only if these hold."""

import json
import shutil
from pathlib import Path

import pytest
from claimed import change_json, claim_of
from command import robust
from hub_server import TOKEN, Server, content_of
from verdicts import rewritten

from robustctl.results import union as results
from robustctl.runs import Run


@pytest.fixture
def mine(claimed_run: Run) -> Path:
    """The result of the run that stands for somebody's evaluation."""
    (found,) = (claimed_run.path / "eval").glob("*.json")
    return found


@pytest.fixture
def repo(hub: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bob's repo with the same model; he claims three broken points to be robust in l_inf. The token is Alice's."""
    result = results.read(claim_of(shelf))
    broken = [i for i, robust_there in enumerate(result.points.robust["linf"]) if not robust_there][:3]
    forged = [1 if i in broken else one for i, one in enumerate(result.points.robust["linf"])]
    rewritten(shelf, {**result.points.robust, "linf": forged})
    files = {path.relative_to(shelf).as_posix(): path.read_bytes() for path in shelf.rglob("*") if path.is_file()}
    hub.add("bob/m", {path: one for path, one in files.items() if path not in ("SHA256SUMS", ".lock")})
    return "bob/m"


def test_witnesses_that_lower_a_claim_come_as_a_pull_request(
    hub: Server, repo: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("-q", "propose", repo, "--result", mine, "--break") == 0
    out = capsys.readouterr().out
    assert "linf:0.2: 3 points that are claimed to be robust are broken: at most 47.5 % instead of 55.0 %" in out
    proposed = hub.tree(hub.repos[repo], "refs/pr/1")
    new = sorted(set(proposed) - set(hub.tree(hub.repos[repo], "main")))
    assert [name.partition("-")[0] for name in new] == ["robustctl/proposal", "witnesses/proposal"]
    content = b"".join(content_of(proposed[name]) for name in new)
    assert TOKEN.encode() not in content and str(mine.parent.parent).encode() not in content
    assert robust("-q", "verify", f"{repo}@refs/pr/1", "--sample", 4, "--seed", 1) == 1  # Bob looks at it first
    assert "linf: points that are claimed to be robust are broken" in capsys.readouterr().out
    hub.add(repo, {name: content_of(proposed[name]) for name in new})  # Bob merges it
    assert robust("-q", "verify", repo, "--sample", 4, "--seed", 1) == 1
    out = capsys.readouterr().out
    assert "linf: points that are claimed to be robust are broken" in out
    assert out.count("m, proposal-test-") == 1, "the proposal is a claim of its own"


def test_a_result_that_lowers_nothing_is_not_proposed_as_if_it_did(
    hub: Server, claimed_run: Run, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("-q", "push", claimed_run.path, "--repo", "alice/m", "--allow-flags") == 0
    assert robust("-q", "propose", "alice/m", "--result", mine, "--break") == 2
    assert "breaks no point" in capsys.readouterr().err
    assert robust("-q", "propose", "alice/m", "--result", mine, "--dry-run") == 0
    assert not hub.repos["alice/m"].pull_requests


def test_what_its_witnesses_do_not_prove_is_not_proposed(
    hub: Server, repo: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Path(shutil.copyfile(mine, tmp_path / mine.name))
    assert robust("-q", "propose", repo, "--result", alone) == 2
    assert "not all beside it" in capsys.readouterr().err
    change_json(alone, lambda content: content.update(weights_sha256="0" * 64))
    assert robust("-q", "propose", repo, "--result", alone) == 2
    assert "not of the weights" in capsys.readouterr().err
    assert json.loads(alone.read_text()) and robust("-q", "propose", f"file://{tmp_path}", "--result", mine) == 2
