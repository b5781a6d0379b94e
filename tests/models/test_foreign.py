"""A repo that robustctl did not write is told what it is, and how its weights are imported."""

import json
from pathlib import Path

import pytest
from hub_server import Fault, Server

from robustctl.errors import RequestError
from robustctl.models.find import home
from robustctl.models.pull import pull


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
    hub.add("bob/net", {path.name: path.read_bytes() for path in model_dir.iterdir()})
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model bob/net is restricted."}
    for pattern in ("/api/models/bob/net", "/resolve/"):
        hub.faults = [Fault(pattern, 403, 9, gated)]
        with pytest.raises(RequestError, match="gated: accept its terms"):
            pull("bob/net")


def test_a_branch_may_have_a_number_sign_in_its_name(hub: Server, model_dir: Path) -> None:
    files = {path.name: path.read_bytes() for path in model_dir.iterdir()}
    hub.add("bob/net", files, branch="fix#7+a")
    assert (pull("bob/net", "fix#7+a") / "model.safetensors").read_bytes() == files["model.safetensors"]
