"""A claim that is true is confirmed, and every forgery of it is caught."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from claimed import change_json, change_witnesses, claim_of, seal
from command import robust
from hub_server import TOKEN, Server
from safetensors.torch import load_file, save_file

import robustctl
from robustctl.data import load
from robustctl.evaluation.witness_code import pack, unpack
from robustctl.results import union as results
from robustctl.results.union import Points, UnionResult, summarize
from robustctl.runs import Run
from robustctl.threats import Threat

SEED = ("--seed", "1", "--sample", "6")


def verdict(what: object, tmp_path: Path, *options: object) -> dict[str, Any]:
    """The one claim's verdict; the exit code must fit it."""
    path = tmp_path / "verdict.json"
    code = robust("-q", "verify", what, *(options or SEED), "--json", path)
    content = json.loads(path.read_text())
    assert code == (0 if content["verdict"] == "confirmed" else 1)
    (claim,) = content["claims"]
    return dict(claim)


def texts(claim: dict[str, Any]) -> str:
    return "\n".join(f"{one['verdict']}: {one['text']}" for one in claim["findings"])


def rewritten(path: Path, robust_points: dict[str, list[int]] | None = None, **points: list[int]) -> None:
    """Write a result with other points, and figures that follow from them."""
    result = results.read(path)
    content = result.points.model_dump() | points
    content["robust"] = robust_points or content["robust"]
    changed = Points.model_validate(content)
    threats = [Threat.of(norm, one.eps_text) for norm, one in result.norms.items()]
    forged = {**result.model_dump(by_alias=True), **summarize(changed, threats, {}, False), "points": changed}
    UnionResult.model_validate({**forged, "second_opinion": None}).write(path)


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


def test_a_claim_without_its_file_of_witnesses_cannot_be_checked(shelf: Path, tmp_path: Path) -> None:
    next((shelf / "witnesses").glob("*")).unlink()
    seal(shelf)
    claim = verdict(f"file://{shelf}", tmp_path)
    assert claim["verdict"] == "cannot be checked" and "no witnesses" in texts(claim)


def test_points_whose_witness_was_removed_are_named(shelf: Path, tmp_path: Path) -> None:
    images, threat = load("digits", "test", 40), Threat.of("linf", "0.2")

    def drop_one(tensors: dict[str, torch.Tensor], _: object) -> None:
        index = tensors["linf.index"]
        x_adv = unpack(tensors["linf.delta.0"].numpy().tobytes(), images.images(index), threat)
        packed = pack(x_adv[1:], images.images(index[1:]), threat)
        tensors["linf.index"], tensors["linf.delta.0"] = (
            index[1:].clone(),
            torch.tensor(list(packed), dtype=torch.uint8),
        )

    removed = int(load_file(next((shelf / "witnesses").glob("*")))["linf.index"][0])
    change_witnesses(shelf, drop_one)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "cannot be checked"
    assert claim["findings"][0]["points"] == [removed]


def test_broken_points_that_are_claimed_to_be_robust_are_found_by_the_fresh_attack(shelf: Path, tmp_path: Path) -> None:
    """The most thorough forgery: everything fits together, and no witness is left that would contradict it."""
    (shelf / "README.md").unlink()
    result = results.read(claim_of(shelf))
    rewritten(claim_of(shelf), dict.fromkeys(result.norms, result.points.clean))

    def drop_all(tensors: dict[str, torch.Tensor], _: object) -> None:
        for norm in result.norms:
            tensors.pop(f"{norm}.delta.0")
            tensors[f"{norm}.index"] = torch.zeros(0, dtype=torch.int64)

    change_witnesses(shelf, drop_all)
    claim = verdict(shelf, tmp_path, "--seed", 1, "--sample", 12)
    assert claim["verdict"] == "not reproduced" and "linf" in texts(claim) and "survivors fell" in texts(claim)


def test_witnesses_that_contradict_the_claim_are_found(shelf: Path, tmp_path: Path) -> None:
    result = results.read(claim_of(shelf))
    first = next(i for i, one in enumerate(result.points.robust["linf"]) if not one and result.points.clean[i])
    forged = {norm: list(bits) for norm, bits in result.points.robust.items()}
    forged["linf"][first] = 1
    rewritten(claim_of(shelf), forged)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "claimed to be robust are broken" in texts(claim)


def test_changed_labels_are_found(shelf: Path, tmp_path: Path) -> None:
    labels = results.read(claim_of(shelf)).points.label
    rewritten(claim_of(shelf), label=[(labels[0] + 1) % 10, *labels[1:]])
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "labels of the claim" in texts(claim)
    assert claim["findings"][-1]["points"] == [0]


def test_another_subset_of_points_is_found(shelf: Path, tmp_path: Path) -> None:
    index = results.read(claim_of(shelf)).points.index
    rewritten(claim_of(shelf), index=[one + 100 for one in index])
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "list of points" in texts(claim)


def test_other_images_under_the_same_names_are_found(shelf: Path, tmp_path: Path) -> None:
    change_json(claim_of(shelf), lambda content: content["data"].update(content_sha256="0" * 64))
    assert "images of digits (test) are not those" in texts(verdict(shelf, tmp_path))


def test_swapped_weights_are_found(shelf: Path, tmp_path: Path) -> None:
    tensors = load_file(shelf / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    save_file({**tensors, name: tensors[name] * 1.01}, shelf / "model.safetensors")
    seal(shelf)
    claim = verdict(f"file://{shelf}", tmp_path)
    assert claim["verdict"] == "not reproduced" and "weights are not those" in texts(claim)


def test_figures_that_do_not_follow_from_the_points_are_found(shelf: Path, tmp_path: Path) -> None:
    change_json(claim_of(shelf), lambda content: content["union"].update(acc=0.9))
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "union.acc" in texts(claim)


def test_figures_that_only_the_card_claims_are_found(shelf: Path, tmp_path: Path) -> None:
    card = shelf / "README.md"
    union = next(line for line in card.read_text().splitlines() if line.strip().startswith("value:"))
    card.write_text(card.read_text().replace(union, union.split(":")[0] + ": 0.99", 1))
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "the card says that the clean accuracy is 0.99" in texts(claim)


def test_a_witness_outside_the_ball_is_found(shelf: Path, tmp_path: Path) -> None:
    images, threat = load("digits", "test", 40), Threat.of("l2", "0.45")

    def move(tensors: dict[str, torch.Tensor], _: object) -> None:
        index = tensors["l2.index"]
        x = images.images(index)
        x_adv = unpack(tensors["l2.delta.0"].numpy().tobytes(), x, threat)
        x_adv[0] = 1 - x[0]
        tensors["l2.delta.0"] = torch.tensor(list(pack(x_adv, x, threat)), dtype=torch.uint8)

    change_witnesses(shelf, move)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "l2: witnesses lie outside" in texts(claim)


def test_another_normalisation_is_found(shelf: Path, tmp_path: Path) -> None:
    change_json(shelf / "config.json", lambda content: content.update(normalization={"mean": [0.1], "std": [1.2]}))
    assert "architecture or normalisation" in texts(verdict(shelf, tmp_path))


def test_another_normalisation_is_found_by_the_verdicts_too(shelf: Path, tmp_path: Path) -> None:
    """Even where the witnesses say that they belong to it."""
    from robustctl.spec import model_sha256, read_spec

    change_json(shelf / "config.json", lambda content: content.update(normalization={"mean": [0.6], "std": [0.2]}))
    digest = model_sha256(read_spec(shelf))

    def adopt(_: object, metadata: dict[str, str]) -> None:
        metadata["origin"] = json.dumps({**json.loads(metadata["origin"]), "model_sha256": digest})

    change_witnesses(shelf, adopt)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "claimed to be right are classified wrongly" in texts(claim)


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
