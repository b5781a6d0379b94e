"""What a failed push tells the user to run, and what a refused one says."""

import shlex

import pytest
from command import robust
from hub_server import Fault, Server

from robustctl.publish.push import Target
from robustctl.runs import Run


def said(error: str) -> list[str]:
    """The command that a message tells to run again, as a shell reads it."""
    return shlex.split(error.partition("Try again: ")[2])


@pytest.mark.parametrize("pattern", ["GET /api/whoami-v2", "POST .*/commit/"], ids=["preflight", "commit"])
def test_the_command_to_repeat_has_every_option_of_the_first(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    hub.add("team/m", {})
    command = ["push", str(run.path), "--repo", "team/m", "--revision", "main2", "--private", "--licence", "mit"]
    hub.faults.append(Fault(pattern, 503, times=99))
    assert robust(*command, "--allow-flags") == 1
    assert said(capsys.readouterr().err) == ["robustctl", *command, "--allow-flags"]
    assert robust("push", "--repo", "team/m", "--create-pr") == 1
    assert said(capsys.readouterr().err) == ["robustctl", "push", str(run.path), "--repo", "team/m", "--create-pr"]
    hub.faults.clear()
    assert robust(*command) == 0


def test_the_command_to_repeat_is_quoted_for_a_shell(hub: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = run.path.rename(run.path.with_name("a run's; directory"))
    hub.faults.append(Fault("GET /api/whoami-v2", 503, times=99))
    assert robust("push", str(place), "--repo", "alice/m") == 1
    assert said(capsys.readouterr().err) == ["robustctl", "push", str(place), "--repo", "alice/m"]
    options = Target("file:///a b", private=True, branch="v1", create_pr=True).options()
    assert options == ["--repo", "file:///a b", "--revision", "v1", "--private", "--create-pr"]


def test_a_mirror_that_failed_says_the_command_too(hub: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["models", "mirror", "digits-linf", "--repo", "alice/digits", "--private", "--licence", "mit"]
    for pattern in ("GET /api/whoami-v2", "POST .*/commit/"):
        hub.faults[:] = [Fault(pattern, 503, times=99)]
        assert robust(*command) == 1
        assert said(capsys.readouterr().err) == ["robustctl", *command]
    hub.faults.clear()
    assert robust(*command) == 0
    assert hub.repos["alice/digits"].private


def test_a_card_that_the_hub_refuses_is_reported_in_the_hubs_words(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = b'{"errors": [{"message": "\\"license\\" must be one of [mit, ...]"}], "warnings": []}'
    hub.faults.append(Fault("POST /api/validate-yaml", 400, body=answer))
    assert robust("push", "--repo", "alice/m") == 2
    error = capsys.readouterr().err
    assert "refuses the card README.md" in error and '"license" must be one of [mit, ...]' in error
    assert "makes no sense" not in error
    assert "model.safetensors" not in hub.tree(hub.repos["alice/m"], "main")
