"""A claim that is true is confirmed, wherever it lies; what was not checked is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from claimed import adopt, change_json, change_witnesses, claim_of
from command import robust
from hub_server import TOKEN, Server
from verdicts import SEED, texts, verdict

import robustctl
from robustctl.data import load
from robustctl.evaluation.witness_code import pack
from robustctl.runs import Run
from robustctl.threats import Threat


def test_a_pushed_claim_is_confirmed_by_another_process_with_an_empty_home(
    hub: Server, claimed_run: Run, tmp_path: Path
) -> None:
    assert robust("-q", "push", claimed_run.path, "--repo", "alice/m", "--allow-flags") == 0
    environment = {**os.environ, "ROBUSTCTL_HOME": str(tmp_path / "empty"), "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_TOKEN")
    command = [sys.executable, "-m", "robustctl", "verify", "alice/m", *SEED]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alice/m, eval-test-" in done.stdout and ": confirmed" in done.stdout
    assert "fell to fresh attacks (seed 1)" in done.stdout


def test_a_pulled_repo_is_verified_without_any_socket(
    hub: Server, claimed_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert robust("-q", "push", claimed_run.path, "--repo", "alice/m", "--allow-flags") == 0
    assert robust("-q", "pull", "alice/m@main") == 0
    asked = len(hub.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert verdict("alice/m@main", tmp_path)["verdict"] == "confirmed"
    assert len(hub.log) == asked


def test_nothing_that_is_published_shows_token_paths_or_user(hub: Server, claimed_run: Run) -> None:
    assert robust("-q", "push", claimed_run.path, "--repo", "alice/m", "--allow-flags") == 0
    names = list(hub.tree(hub.repos["alice/m"], "main"))
    assert any(name.startswith("witnesses/eval-test-") for name in names)
    content = b"\n".join(hub.read("alice/m", name) for name in names)
    for secret in (TOKEN, str(Path.home()) + "/", str(claimed_run.path.parent)):
        assert secret.encode() not in content


def test_a_run_and_the_file_of_a_result_are_verified_where_they_lie(claimed_run: Run, tmp_path: Path) -> None:
    assert verdict(claimed_run.path, tmp_path)["verdict"] == "confirmed"
    (path,) = (claimed_run.path / "eval").glob("*.json")
    assert verdict(path, tmp_path)["verdict"] == "confirmed"


def test_a_published_directory_is_verified_without_any_network(shelf: Path, tmp_path: Path) -> None:
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "confirmed"
    assert {name: one["claimed"] for name, one in claim["figures"].items()} == pytest.approx(
        {name: one["proven"] for name, one in claim["figures"].items()}
    )
    assert claim["survivors"]["linf"]["sample"] == 6 and not claim["survivors"]["linf"]["fell"]


def test_python_gives_the_verdict_on_each_claim(shelf: Path) -> None:
    (claim,) = robustctl.verify(shelf, sample=4, seed=1)
    assert claim.verdict == "confirmed" and claim.figures["linf"].witnesses == 21


def test_without_an_attack_on_survivors_nothing_is_confirmed(shelf: Path, tmp_path: Path) -> None:
    claim = verdict(shelf, tmp_path, "--sample", 0)
    assert claim["verdict"] == "cannot be checked" and "no survivor was attacked" in texts(claim)


def test_a_model_that_withstands_its_witnesses_is_stronger_than_claimed(shelf: Path, tmp_path: Path) -> None:
    images = load("digits", "test", 40)

    def undo(tensors: dict[str, torch.Tensor], _: object) -> None:
        x = images.images(tensors["l1.index"])
        tensors["l1.delta.0"] = torch.tensor(list(pack(x, x, Threat.of("l1", "0.5"))), dtype=torch.uint8)

    change_witnesses(shelf, undo)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "stronger than claimed"
    assert claim["figures"]["l1"]["proven"] > claim["figures"]["l1"]["claimed"]


def test_local_images_are_asked_for_and_taken(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(claim_of(shelf), lambda content: content["data"].update(source="local data mine"))
    adopt(shelf)
    assert "--data FOLDER" in texts(verdict(shelf, tmp_path))
    assert verdict(shelf, tmp_path, "--data", "digits", *SEED)["verdict"] == "confirmed"
    assert robust("-q", "verify", shelf, "--data", tmp_path / "nowhere") == 2


def test_survivors_that_fall_are_told_and_refute_a_claim_only_outside_its_own_interval(
    claimed_run: Run, tmp_path: Path
) -> None:
    claim = verdict(claimed_run.path, tmp_path, "--seed", 2, "--sample", 19)  # all survivors of l_inf
    assert claim["survivors"]["linf"]["fell"], "the fast protocol misses some"
    assert claim["verdict"] == "confirmed"
    assert any("within the claim's own interval" in note for note in claim["notes"])


def test_what_makes_no_claim_is_a_wrong_request(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, reason in (("digits-linf", "entry"), (model_dir, "no result"), ("nothing-here", "nothing-here")):
        assert robust("-q", "verify", what) == 2
        assert reason in capsys.readouterr().err
