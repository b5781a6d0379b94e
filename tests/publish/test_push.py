"""Pushing with the real hub client to a hub on the loopback."""

import gc
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from command import robust
from hub_server import TOKEN, Fault, Server
from samples import result

import robustctl
from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.models.find import find_model
from robustctl.models.mixin import RobustClassifier
from robustctl.models.pull import pull
from robustctl.publish.push import preflight
from robustctl.runs import Run
from robustctl.spec import ModelSpec


def test_pushed_and_pulled_weights_are_bit_identical_and_give_the_same_logits(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    directory = pull("alice/m")
    assert (directory / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    x = torch.rand(2, 1, 8, 8)
    original, _ = checkpoint.load_model(run.path)
    assert torch.equal(robustctl.load_model("alice/m")(x), original(x))
    assert find_model("alice/m").licence == "mit"


def test_a_repo_holds_what_the_hub_users_expect(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    names = sorted(hub.tree(hub.repos["alice/m"], "main"))
    patterns = [
        r"\.gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        r"robustctl/eval-test-\w+\.json",
        r"robustctl/eval-test-\w+\.json",
        "robustctl/run.json",
    ]
    assert len(names) == len(patterns)
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(patterns, names, strict=True))


def test_a_second_push_of_the_same_run_makes_no_commit(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    commits = len(hub.repos["alice/m"].commits)
    assert robust("push", "--repo", "alice/m") == 0
    assert len(hub.repos["alice/m"].commits) == commits
    assert "has all of" in capsys.readouterr().out


def test_the_mixin_of_the_hub_loads_it(hub: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    model = RobustClassifier.from_pretrained(str(pull("alice/m")))
    original, _ = checkpoint.load_model(run.path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), original(x))


def test_what_the_mixin_saves_is_a_model_directory(run: Run, tmp_path: Path) -> None:
    RobustClassifier.from_pretrained(str(run.path)).save_pretrained(str(tmp_path / "saved"))
    saved, _ = checkpoint.load_model(tmp_path / "saved")
    original, _ = checkpoint.load_model(run.path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(saved(x), original(x))


def test_the_card_is_read_by_the_hub_library(hub: Server, run: Run, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    assert robust("push", "--repo", "alice/m") == 0
    path = tmp_path / "README.md"
    path.write_bytes(hub.read("alice/m", "README.md"))
    card = ModelCard.load(path)
    assert card.data.license == "mit"
    assert card.data.library_name == "robustctl"
    values = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert values == {
        "clean accuracy": 1.0,
        "robust accuracy, linf, eps 0.15": 0.6,
        "robust accuracy, l1, eps 1.8": 0.6,
        "average robust accuracy": 0.6,
        "union robust accuracy": 0.6,
    }
    assert {"n", "protocol", "ci95"} <= set(card.data.eval_results[0].metric_args)
    assert "before" in card.text and "after" in card.text


def test_nothing_private_is_published(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    pushed = hub.tree(hub.repos["alice/m"], "main")
    text = b"\n".join(hub.read("alice/m", name) for name in pushed).decode("utf-8", "replace")
    assert TOKEN not in text
    assert str(Path.home()) + "/" not in text
    assert str(run.path.parent) not in text
    assert json.loads(hub.read("alice/m", "robustctl/run.json"))["data"]["source"] == "local data images"


def test_a_token_in_the_recipe_is_refused_before_anything_is_sent(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "recipe.yaml").write_text(f"# {TOKEN}\nmethod: e-at\n")
    assert robust("push", "--repo", "alice/m") == 2
    error = capsys.readouterr().err
    assert "recipe.yaml would publish a hub token" in error
    assert TOKEN not in error


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (Fault(r"GET /api/whoami-v2", 401, times=9), 2, "refuses the token"),
        (Fault(r"POST /api/repos/create", 403, times=9), 2, "lacks the right"),
        (Fault(r"POST .*/preupload/", 404, times=9), 2, "is not on"),
        (Fault(r"POST .*/commit/", 429, times=99), 1, "answered 429"),
        (Fault(r"POST .*/commit/", 500, times=99), 1, "answered 500"),
        (Fault(r"POST .*objects/batch", 500, times=99), 1, "answered 500"),
        (Fault(r"PUT /lfs/", 400, times=99), 1, "answered 400"),
        (Fault(r"PUT /lfs/", 500, times=99), 1, "answered 500"),
    ],
)
def test_a_failed_push_says_why_and_leaves_the_run_as_it_was(
    hub: Server,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    hub.faults.append(fault)
    assert robust("push", "--repo", "alice/m") == code
    error = capsys.readouterr().err
    assert message in error
    assert TOKEN not in error
    if code == 1:
        assert f"robustctl push {run.path} --repo alice/m" in error
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    hub.faults.clear()
    assert robust("push", "--repo", "alice/m") == 0


def test_garbage_is_collected_again_after_a_push_and_after_a_refused_one(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    assert gc.isenabled()
    assert robust("push", "--repo", "bob/m") == 2
    assert gc.isenabled()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: Server, run: Run, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.faults += [Fault(r"POST .*/commit/", status, times=2), Fault(r"GET /api/whoami", status)]
    assert robust("push", "--repo", "alice/m") == 0


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("hf_reader", "rita/m", "may only read"),
        (TOKEN, "bob/m", "belongs to alice and the organisations team, not to bob"),
        ("hf_wrong", "alice/m", "refuses the token"),
        ("", "alice/m", "no hub token"),
    ],
)
def test_the_preflight_names_what_is_wrong_with_the_token(
    hub: Server,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    repo: str,
    message: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert robust("push", "--repo", repo) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not token or token not in error
    assert not hub.repos


def test_an_organisation_a_branch_and_a_private_repo(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "team/m", "--private", "--revision", "v1") == 0
    repo = hub.repos["team/m"]
    assert repo.private
    assert "model.safetensors" in hub.tree(repo, "v1")
    assert "model.safetensors" not in hub.tree(repo, "main")


def test_a_pull_request_leaves_main_alone(hub: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("push", "--repo", "alice/m", "--create-pr") == 0
    assert "discussions/1" in capsys.readouterr().out
    repo = hub.repos["alice/m"]
    assert "model.safetensors" not in hub.tree(repo, "main")
    assert "model.safetensors" in hub.tree(repo, "refs/pr/1")


def test_a_dry_run_lists_the_files_checks_the_token_and_changes_nothing(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("push", "--repo", "alice/m", "--dry-run") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("model.safetensors", "config.json", "README.md", "robustctl/run.json"))
    assert hub.log and all(line.startswith("GET ") for line in hub.log) and not hub.repos
    assert robust("push", "--repo", "bob/m", "--dry-run") == 2
    assert "the token belongs to alice" in capsys.readouterr().err


def test_a_dry_run_without_a_network_says_what_it_did_not_check(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert robust("push", "--repo", "alice/m", "--dry-run") == 0
    assert "whether the token may write to alice/m was not checked" in capsys.readouterr().err


def test_an_unknown_licence_is_never_guessed(hub: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.update(licence=None)
    assert robust("push", "--repo", "alice/m") == 2
    assert "the licence of start, which this model was made from, is not known" in capsys.readouterr().err
    assert robust("push", "--repo", "alice/m", "--licence", "nonsense") == 2
    assert "is not one of the hub's" in capsys.readouterr().err
    assert robust("push", "--repo", "alice/m", "--licence", "mit") == 0


def test_flagged_results_need_a_word_and_the_card_names_them(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = checkpoint.load_model(run.path)
    flag = "zero-gradient: 40 % of 10 points have none"
    result("run", checkpoint.weights_sha256(model), 9, (flag,)).write(run.path / "eval" / "z.json")
    assert robust("push", "--repo", "alice/m") == 2
    assert flag in capsys.readouterr().err
    assert robust("push", "--repo", "alice/m", "--allow-flags") == 0
    assert "may be too high" in hub.read("alice/m", "README.md").decode()
    assert flag in hub.read("alice/m", "README.md").decode()


def test_the_card_of_a_run_that_was_cut_short_says_after_which_step(hub: Server, run: Run) -> None:
    run.update(step=2, steps=190)
    assert robust("push", "--repo", "alice/m") == 0
    assert "- weights: the last ones, after 2 of 190 steps" in hub.read("alice/m", "README.md").decode()


def test_two_evaluations_of_one_run_are_two_columns_that_say_what_differs(hub: Server, run: Run) -> None:
    model, _ = checkpoint.load_model(run.path)
    first = result("run", checkpoint.weights_sha256(model), 6)
    second = first.model_copy(update={"attack": first.attack.model_copy(update={"precision": "bf16"})})
    first.write(run.path / "eval" / "copy.json")
    second.write(run.path / "eval" / "z.json")
    assert robust("push", "--repo", "alice/m") == 0
    card = hub.read("alice/m", "README.md").decode()
    assert "| accuracy in % | before | after (float32) | change | p | after (bf16) | change | p |" in card


def test_an_unfinished_run_is_not_pushed(hub: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.update(status="interrupted")
    assert robust("push", "--repo", "alice/m") == 2
    assert "is interrupted; finish it first" in capsys.readouterr().err
    run.update(status="running")
    assert robust("push", "--repo", "alice/m") == 2
    assert "is stopped; finish it first" in capsys.readouterr().err
    with run.training():
        assert robust("push", "--repo", "alice/m") == 2
    assert "is still running" in capsys.readouterr().err


def test_the_users_own_text_in_a_card_survives_a_push(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/m") == 0
    card = hub.read("alice/m", "README.md").decode()
    edited = card.replace("---\n", "---\nnote: mine  # kept\n", 1) + "\nMy own words.\t \n"
    hub.add("alice/m", {"README.md": edited.encode()})
    run.update(seed=7)
    assert robust("push", "--repo", "alice/m") == 0
    merged = hub.read("alice/m", "README.md").decode()
    assert "\nMy own words.\t \n" in merged
    assert "note: mine  # kept\n" in merged
    assert "- seed: 7" in merged
    assert yaml.safe_load(merged.split("---\n")[1])["license"] == "mit"


def test_a_directory_is_a_registry_with_the_same_checks(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"file://{tmp_path}/share/m"
    assert robust("push", "--repo", place) == 0
    assert robust("push", "--repo", place) == 0
    assert "has all of" in capsys.readouterr().out
    directory = pull(place)
    assert (directory / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    assert find_model(place).weights.parent == directory


def test_changed_bytes_in_a_directory_registry_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"file://{tmp_path}/share/m"
    assert robust("push", "--repo", place) == 0
    weights = tmp_path / "share" / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert robust("pull", place) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_large_weights_are_sharded_by_the_rule_of_the_hub_library(
    hub: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustctl.publish.push.SHARD_BYTES", 700)
    assert robust("push", "--repo", "alice/m") == 0
    names = [name for name in hub.tree(hub.repos["alice/m"], "main") if name.startswith("model")]
    assert "model.safetensors" not in names
    assert "model.safetensors.index.json" in names
    assert len(names) > 2
    original, _ = checkpoint.load_model(run.path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustctl.load_model("alice/m")(x), original(x))


def test_a_preflight_before_long_work_says_whose_token_it_is(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight("alice/new") == "alice"
    assert preflight("file:///anywhere") == ""
    assert not hub.repos
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(RequestError, match="may only read"):
        preflight("rita/new")
    with pytest.raises(RequestError, match="not of the form USER/NAME"):
        preflight("just-a-name")


def test_a_new_user_name_in_a_push_is_not_looked_for_in_words(run: Run, tmp_path: Path) -> None:
    (run.path / "recipe.yaml").write_text("# the root of the matter: 8/255, a/b/c\nmethod: e-at\n")
    assert robust("push", "--repo", f"file://{tmp_path}/m") == 0
    assert "8/255, a/b/c" in (tmp_path / "m" / "recipe.yaml").read_text()


@pytest.mark.slow
def test_a_wide_resnet_28_10_comes_back_bit_by_bit(hub: Server, run: Run) -> None:
    spec = ModelSpec.model_validate(
        {
            "architecture": {"name": "dm-wide-resnet", "args": {"depth": 28, "width": 10}},
            "normalization": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2471, 0.2435, 0.2616]},
            "input_shape": [3, 32, 32],
            "n_classes": 10,
            "dataset": "cifar10",
        }
    )
    model = build(spec).eval()
    checkpoint.save_model(model, spec, run.path)
    assert robust("push", "--repo", "alice/m") == 0
    pulled = robustctl.load_model("alice/m")
    assert checkpoint.weights_sha256(pulled) == checkpoint.weights_sha256(model)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(pulled(x), model(x))
