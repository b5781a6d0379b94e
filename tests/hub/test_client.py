"""The hub's client: identity, data sets, and a token that must never be seen."""

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import robust
from hub_server import TOKEN, Fault, Server
from PIL import Image

import robustctl
from robustctl.errors import RequestError, RunError
from robustctl.hub import client
from robustctl.models.find import home, read_entry
from robustctl.models.pull import fetch_dataset, fetch_dataset_file, pull
from robustctl.runs import Run
from robustctl.workflows.images import load_images


def test_doctor_names_the_owner_of_the_token_and_not_the_token(
    hub: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert robust("doctor") == 0
    output = capsys.readouterr().out
    assert "of alice, role write, organisations team" in output
    assert TOKEN not in output
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert robust("doctor") == 0
    assert "refuses the token" in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", "")
    assert robust("doctor") == 0
    assert "answers" in capsys.readouterr().out
    hub.close()
    assert robust("doctor") == 0
    assert "does not answer" in capsys.readouterr().out


def test_a_dead_hub_is_a_run_error(hub: Server) -> None:
    hub.close()
    with pytest.raises(RunError, match="cannot reach http://127.0.0.1.*gave up after 3 attempts"):
        client.list_files("alice/m", "main")


def test_an_answer_that_makes_no_sense_is_a_run_error(hub: Server) -> None:
    hub.faults.append(Fault("GET /api/models", 200, body=b"[]", times=99))
    with pytest.raises(RunError, match="makes no sense"):
        client.list_files("alice/m", "main")
    hub.faults[:] = [Fault("GET /api/models", 200, body=b"{not json", times=99)]
    with pytest.raises(RunError, match="makes no sense"):
        client.list_files("alice/m", "main")


@pytest.mark.parametrize("sha", ["../../../evil", "/etc", "", "a" * 41, 40 * "A", 7, None, ["a" * 40]], ids=str)
def test_a_commit_that_is_no_hash_is_refused(hub: Server, sha: object) -> None:
    body = json.dumps({"id": "alice/m", "sha": sha, "siblings": [], "tags": []}).encode()
    hub.add("alice/m", {"config.json": b"{}", "a.parquet": b"x"})
    hub.faults.append(Fault(r"GET /api/(models|datasets)/alice/m(/revision/main)?$", 200, body=body, times=99))
    for ask in (lambda: pull("alice/m"), lambda: fetch_dataset("alice/m")):
        with pytest.raises(RunError, match="does not say which commit 'main' is"):
            ask()
    assert not [path for path in home().rglob("*") if path.is_file()]


@pytest.mark.parametrize("body", [b"[]", b'{"orgs": 3}', b'{"auth": []}', b'{"orgs": ["team"]}', b"7"], ids=str)
def test_an_answer_about_the_token_that_makes_no_sense_is_a_run_error(hub: Server, body: bytes) -> None:
    hub.faults.append(Fault("GET /api/whoami-v2", 200, body=body, times=99))
    with pytest.raises(RunError, match="the token: .* makes no sense"):
        client.identity()


def test_a_repo_of_too_many_files_is_refused_and_not_cut(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("alice/m", {f"{i}.json": b"{}" for i in range(4)})
    monkeypatch.setattr(client, "MAX_FILES", 4)
    assert len(client.list_files("alice/m", "main")[1]) == 4
    hub.add("alice/m", {"5.json": b"{}"})
    with pytest.raises(RequestError, match="alice/m holds more than 4 files"):
        client.list_files("alice/m", "main")


def test_a_password_in_the_endpoint_is_in_no_message(
    hub: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("alice/m", {"config.json": b"{}", "model.safetensors": b"x"})
    hub.faults.append(Fault("resolve", 404, times=99))
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("://", "://me:secret@"))
    assert robust("pull", "alice/m") == 2
    error = capsys.readouterr().err
    assert f"{hub.url}/alice/m/resolve/" in error and "there is no such file (404)" in error
    assert "secret" not in error and "me:" not in error
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with (
        pytest.raises(RunError, match=r"^http://127.0.0.1:\d+/x: HF_HUB_OFFLINE"),
        client.get(f"{client.endpoint()}/x", {}),
    ):
        pass


@pytest.mark.parametrize("hops", [["http"], ["https", "http", "https"]], ids=len)
def test_an_encrypted_address_is_not_left_for_a_plain_one(monkeypatch: pytest.MonkeyPatch, hops: list[str]) -> None:
    answers = [SimpleNamespace(url=SimpleNamespace(scheme=scheme)) for scheme in hops]
    answers[-1].history = answers[:-1]
    session = SimpleNamespace(stream=lambda *args, **options: nullcontext(answers[-1]))
    monkeypatch.setattr(client, "get_session", lambda: session)
    with pytest.raises(RunError, match="leads to an address that is not https"), client.get("https://a.org/x", {}):
        pass
    with client.get("http://127.0.0.1/x", {}):
        pass


def test_one_file_of_a_data_set_is_fetched_once_and_then_needs_no_hub(hub: Server) -> None:
    hub.add("alice/generated", {"cifar10/1m.npz": b"one", "cifar10/5m.npz": b"five", "README.md": b"r"})
    path = fetch_dataset_file("alice/generated", "cifar10/1m.npz")
    assert path.read_bytes() == b"one" and not (path.parent / "5m.npz").exists()
    before = len(hub.log)
    assert fetch_dataset_file("alice/generated", "cifar10/1m.npz") == path and len(hub.log) == before
    assert fetch_dataset_file("alice/generated", "cifar10/5m.npz").read_bytes() == b"five"
    with pytest.raises(RequestError, match="unknown file of the data set alice/generated 'cifar10/2m.npz'"):
        fetch_dataset_file("alice/generated", "cifar10/2m.npz")


def test_a_training_takes_extra_images_from_a_data_set_of_the_hub(hub: Server, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "1m.npz", image=image, label=np.arange(50) % 10)
    hub.add("alice/generated", {"digits/1m.npz": (tmp_path / "1m.npz").read_bytes()})
    extra = ["extra.path=hub:alice/generated/digits/1m.npz", "selection.images=50"]
    run = robustctl.finetune("digits-linf", "e-at", overrides=extra, max_steps=2, device="cpu", out=tmp_path / "run")
    assert run.read().step == 2
    assert run.read().recipe["extra"]["path"] == "hub:alice/generated/digits/1m.npz"


def test_a_gated_repo_says_where_to_accept_its_terms(hub: Server) -> None:
    hub.add("bob/m", {"config.json": b"{}"})
    hub.faults.append(Fault("GET /api/models", 403, headers={"X-Error-Code": "GatedRepo"}, times=99))
    with pytest.raises(RequestError, match="bob/m is gated: accept its terms on http"):
        client.list_files("bob/m", "main")


def test_a_data_set_is_fetched_by_split_and_only_once(hub: Server) -> None:
    files = {f"plain_text/{split}-00000-of-00001.parquet": split.encode() * 100 for split in ("train", "test")}
    hub.add("uoft-cs/cifar10", files)
    folder = fetch_dataset("uoft-cs/cifar10", "test")
    assert [path.name for path in folder.rglob("*.parquet")] == ["test-00000-of-00001.parquet"]
    before = len([line for line in hub.log if "resolve" in line])
    assert fetch_dataset("uoft-cs/cifar10", "test") == folder
    assert len([line for line in hub.log if "resolve" in line]) == before
    everything = fetch_dataset("uoft-cs/cifar10")
    assert len(list(everything.rglob("*.parquet"))) == 2
    with pytest.raises(RequestError, match="no split 'valid'; its splits: test, train"):
        fetch_dataset("uoft-cs/cifar10", "valid")
    with pytest.raises(RequestError, match="no name of a split"):
        fetch_dataset("uoft-cs/cifar10", "../test")


@pytest.mark.parametrize("layout", ["cifar100/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "{}.parquet"])
def test_cifar100_is_evaluated_on_the_hubs_own_layouts(hub: Server, layout: str) -> None:
    names = [f"class {i}" for i in range(100)]
    features = {"fine_label": {"names": names, "_type": "ClassLabel"}, "coarse_label": {"_type": "ClassLabel"}}
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (120, 120, 110)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}] * 2
    table = pa.table({"img": images, "fine_label": [99, 3], "coarse_label": [1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, content := io.BytesIO())
    hub.add("uoft-cs/cifar100", {layout.format(split): content.getvalue() for split in ("train", "test")})
    spec = read_entry("gowal-wrn70-cifar100").spec
    found = load_images("uoft-cs/cifar100", "test", None, spec)
    assert found.y.tolist() == [99, 3] and found.shape == spec.input_shape


def test_the_token_is_in_no_output_log_file_or_traceback(
    hub: Server, run: Run, private_home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    environment = {**os.environ, "ROBUSTCTL_DEBUG": "1", "HF_DEBUG": "1"}
    outputs = []
    for arguments in (
        ["push", "--repo", "alice/m"],
        ["push", "--repo", "bob/m"],
        ["pull", "alice/none"],
    ):
        program = f"import sys; sys.argv = {['robustctl', *arguments]!r}; from robustctl.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        outputs.append(done.stdout + done.stderr)
    assert "Traceback" in "".join(outputs)
    written = [path.read_bytes() for path in private_home.rglob("*") if path.is_file()]
    pushed = [hub.read("alice/m", name) for name in hub.tree(hub.repos["alice/m"], "main")]
    assert TOKEN not in "".join(outputs) + caplog.text
    assert not [content for content in written + pushed if TOKEN.encode() in content]


def test_a_file_that_is_not_what_its_known_hash_says_is_not_published(hub: Server, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"changed since it was hashed")
    client.create_repo("alice/m", private=False, branch="main")
    with pytest.raises(RunError, match="answered 400"):
        client.commit_files("alice/m", {path.name: path}, {path: "0" * 64}, [], "message", "main", False)
    assert path.name not in hub.tree(hub.repos["alice/m"], "main")


@pytest.mark.skipif(version("huggingface_hub") < "2", reason="the client hashes every file by itself")
def test_the_client_does_not_read_a_file_again_to_hash_it(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    known = {path: hashlib.sha256(b"weights").hexdigest()}
    monkeypatch.delattr("huggingface_hub.lfs.sha_fileobj")
    client.create_repo("alice/m", private=False, branch="main")
    client.commit_files("alice/m", {path.name: path}, known, [], "message", "main", False)
    assert hub.read("alice/m", path.name) == b"weights"
