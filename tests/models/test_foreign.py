"""A repo that robustctl did not write is told what it is, and how its weights are imported."""

import json
from pathlib import Path

import pytest
from command import robust
from hub_server import TOKEN, Fault, Server

from robustctl.errors import RequestError
from robustctl.models.find import home
from robustctl.models.pull import pull
from robustctl.runs import Run

RESULT = Path(__file__).parents[1] / "fixtures" / "stored-run" / "eval" / "fast-30-0b2089b7c852.json"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": b'{"model_type": "vit"}', "model.safetensors": b"x"},
         "its config.json is of transformers (of a 'vit'); its weights are model.safetensors"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"},
         "it lacks model.safetensors; its weights are pytorch_model.bin"),
        ({"README.md": b"x", "a/ema.safetensors": b"x", "a/raw.safetensors": b"y", "old.pt": b"z"},
         "it lacks config.json; it has 3 files of weights, choose one of a/ema.safetensors, a/raw.safetensors, old.pt"),
        ({"config.json": b"[1]", "model.safetensors": b"x"}, "its config.json is of another library"),
        ({"README.md": b"x"}, "it lacks config.json. It holds README.md, and no weights"),
    ],
)  # fmt: skip
def test_what_is_there_and_how_to_import_it_are_said(hub: Server, files: dict[str, bytes], said: str) -> None:
    hub.add("bob/net", files)
    with pytest.raises(RequestError) as refused:
        pull("bob/net")
    text = str(refused.value)
    assert said in text
    assert ("robustctl models import" in text) == ("and no weights" not in text)
    assert str(home()) not in text and "pydantic" not in text and "validation" not in text


def test_a_spec_of_ours_that_is_wrong_is_told_without_paths_of_this_machine(hub: Server, model_dir: Path) -> None:
    content = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    content["n_classes"] = "many"
    del content["architecture"]
    weights = (model_dir / "model.safetensors").read_bytes()
    hub.add("bob/net", {"config.json": json.dumps(content).encode(), "model.safetensors": weights})
    with pytest.raises(
        RequestError, match=r"^bob/net/config.json does not describe.*architecture: .*n_classes: "
    ) as refused:
        pull("bob/net")
    assert str(home()) not in str(refused.value) and "pydantic" not in str(refused.value)


def test_a_gated_repo_says_that_its_terms_are_to_be_accepted_with_a_token_too(hub: Server, model_dir: Path) -> None:
    hub.add("bob/net", _all(model_dir))
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model bob/net is restricted."}
    for pattern in ("/api/models/bob/net", "/resolve/"):
        hub.faults = [Fault(pattern, 403, 9, gated)]
        with pytest.raises(RequestError, match="gated[:;] accept its terms"):
            pull("bob/net")


def test_a_branch_may_have_a_number_sign_in_its_name(hub: Server, model_dir: Path) -> None:
    files = _all(model_dir)
    hub.add("bob/net", files, branch="fix#7+a")
    assert (pull("bob/net", "fix#7+a") / "model.safetensors").read_bytes() == files["model.safetensors"]


def _all(model_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model_dir.iterdir()}


def test_a_repo_that_was_renamed_is_found_by_its_old_name_and_the_new_one_is_said(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("push", "--repo", "alice/new") == 0
    hub.moved = {"alice/old": "alice/new", "alice/circle": "alice/circle"}
    capsys.readouterr()
    assert robust("pull", "alice/old") == 0
    assert "alice/old has moved: it is alice/new now" in capsys.readouterr().err
    assert robust("models", "verify", "alice/old") == 0
    assert robust("push", "--repo", "alice/old", "--dry-run") == 0
    assert robust("pull", "alice/circle") == 1
    assert capsys.readouterr().err.count("robustctl: ") == 1


@pytest.mark.parametrize(("token", "said"), [(None, "and set HF_TOKEN"), (TOKEN, "with the account of your token")])
def test_the_terms_of_a_gated_repo_are_to_be_accepted_by_whoever_asks(
    hub: Server,
    model_dir: Path,
    token: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add("bob/net", _all(model_dir))
    hub.repos["bob/net"].accepted = {"dave"}
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    assert robust("pull", "bob/net") == 2
    text = capsys.readouterr().err
    assert "gated; accept its terms on " in text and f"/bob/net{', ' if token else ' '}{said}" in text
    assert text.count("\n") == 1 and "resolve" not in text and TOKEN not in text
    hub.repos["bob/net"].accepted = {"alice"}
    assert robust("pull", "bob/net") == (0 if token else 2)


def test_a_model_is_pushed_to_a_branch_with_a_number_sign_and_pulled_from_it(hub: Server, run: Run) -> None:
    assert robust("push", "--repo", "alice/net", "--revision", "fix#7") == 0
    assert robust("pull", "alice/net@fix#7") == 0
    assert robust("models", "verify", "alice/net@fix#7") == 0


@pytest.mark.parametrize(
    "command", [["pull"], ["verify"], ["leaderboard", "-o", "site"], ["propose", "--result", str(RESULT)]]
)
def test_every_command_that_fetches_says_of_a_foreign_repo_what_it_is(
    hub: Server, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("bob/net", {"config.json": b'{"model_type": "vit"}', "pytorch_model.bin": b"x"})
    assert robust(command[0], "bob/net", *command[1:]) == 2
    text = capsys.readouterr().err
    assert "its weights are pytorch_model.bin" in text and "models import pytorch_model.bin" in text
    assert text.count("\n") == 1 and str(home()) not in text
