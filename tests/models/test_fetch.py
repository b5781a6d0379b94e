"""Weights of entries: from a hub repo, from a plain address, by hand; trust on first use; mirrors."""

import errno
import hashlib
import io
import multiprocessing
from pathlib import Path

import pytest
import torch
import yaml
from command import robust
from hub_server import TOKEN, Fault, Server

import robustctl
from robustctl.architectures import Classifier
from robustctl.models.entry import Entry
from robustctl.models.fetch import asked_once, check_sources, fetch_entry
from robustctl.models.find import home, read_entry
from robustctl.models.shelf import read_record

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def published(conv_model: Classifier) -> bytes:
    """A checkpoint as authors publish it."""
    buffer = io.BytesIO()
    torch.save({"model": {f"module.{n}": t for n, t in conv_model.net.state_dict().items()}, "epoch": 1}, buffer)
    return buffer.getvalue()


CONTENT: dict[str, object] = {
    "description": "A model of <b>others</b>",
    "architecture": {"name": "kw-small", "args": {"width": 2, "hidden": 8}},
    "input_shape": [1, 8, 8],
    "n_classes": 10,
    "dataset": "digits",
    "keys": {"at": ["model"], "strip": "module."},
    "licence": "mit",
    "accuracies": [{"value": 0.9, "n": 100, "protocol": "clean", "source": "a paper"}],
    "citation": "Somebody: Something. 2020",
}


def add_entry(tmp_path: Path, sources: list[dict[str, object]], **more: object) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(CONTENT | {"sources": sources} | more))
    assert robust("models", "add", path) == 0


def url(hub: Server, name: str = "a.pt") -> dict[str, object]:
    return {"url": f"{hub.url}/files/{name}", "file": name}


def test_the_first_source_that_works_is_taken_and_converted(
    hub: Server, tmp_path: Path, published: bytes, conv_model: Classifier
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub, "gone.pt"), url(hub)])
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustctl.load_model("theirs")(x), conv_model(x))
    assert sorted(path.name for path in (home() / "weights").glob("[!.]*")) == ["theirs.json", "theirs.safetensors"]


def test_a_plain_address_never_sees_the_token(
    hub: Server, tmp_path: Path, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    answer = hub.http.RequestHandlerClass.plain
    monkeypatch.setattr(
        hub.http.RequestHandlerClass,
        "plain",
        lambda self, path: (seen.append(str(self.headers)), answer(self, path)),
    )
    monkeypatch.setattr("hub_server.ROUTES", [(r"GET /files/(.+)", lambda self, path: self.plain(path))])
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 0
    assert seen and TOKEN not in "".join(seen)


def test_a_hub_source_is_checked_against_the_hubs_own_hash(hub: Server, tmp_path: Path, published: bytes) -> None:
    commit = hub.add("them/m", {"w.pt": published})
    add_entry(tmp_path, [{"repo": "them/m", "revision": commit, "file": "w.pt"}])
    hub.faults.append(Fault("resolve", flip=True, times=9))
    assert robust("pull", "theirs") == 1
    hub.faults.clear()
    assert robust("pull", "theirs", "--keep-original") == 0
    assert (home() / "weights" / "theirs-w.pt").read_bytes() == published


def test_a_file_that_changed_since_the_first_download_is_refused(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 0
    record = read_record("theirs")
    assert record is not None and record.source_sha256 == hashlib.sha256(published).hexdigest()
    (home() / "weights" / "theirs.safetensors").unlink()
    hub.files["a.pt"] = published[:-1] + b"x"
    assert robust("pull", "theirs") == 1
    assert f"expected {record.source_sha256}" in capsys.readouterr().err
    hub.files["a.pt"] = published
    assert robust("pull", "theirs") == 0


def test_a_file_that_does_not_convert_is_fetched_anew_where_nobody_knows_its_hash(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = b"no weights, but sent with status 200"
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 1
    assert "cannot read" in capsys.readouterr().err
    hub.files["a.pt"] = published
    assert robust("pull", "theirs") == 0


def test_remove_takes_the_original_and_what_an_interrupted_download_left(
    hub: Server, tmp_path: Path, published: bytes
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub) | {"sha256": hashlib.sha256(published).hexdigest(), "size": len(published)}])
    hub.faults.append(Fault("files", cut=100, times=9))
    assert robust("pull", "theirs") == 1
    assert (home() / "weights" / ".theirs" / "a.pt.part").is_file()
    hub.faults.clear()
    assert robust("pull", "theirs", "--keep-original") == 0
    (home() / "weights" / ".theirs").mkdir()
    assert robust("models", "remove", "theirs") == 0
    assert [path.name for path in home().rglob("*") if path.is_file()] == ["theirs.lock"]
    assert robust("models", "remove", "theirs") == 2


@pytest.mark.parametrize("where", ["robustctl.checkpoint.save_file", "robustctl.models.shelf.write_text"])
def test_a_full_disk_leaves_no_weights_without_their_record_and_the_same_command_completes(
    hub: Server,
    tmp_path: Path,
    published: bytes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        assert robust("pull", "theirs") == 1
    assert "no space left while writing" in capsys.readouterr().err
    assert not list((home() / "weights").glob("[!.]*"))
    assert robust("pull", "theirs") == 0
    assert robust("models", "verify", "theirs", "--local") == 0


def test_the_first_hash_of_a_source_outlives_other_sources_and_imports(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"], hub.files["b.pt"] = published, published + b"other"
    add_entry(tmp_path, [url(hub), url(hub, "b.pt"), {"page": "https://example.org/x", "file": "c.pt"}])
    weights = home() / "weights" / "theirs.safetensors"
    hub.faults.append(Fault("a.pt", 404))
    assert robust("pull", "theirs") == 0  # of b.pt
    weights.unlink()
    hub.files["b.pt"] = b"changed"
    assert robust("pull", "theirs") == 0  # of a.pt
    weights.unlink()
    (tmp_path / "c.pt").write_bytes(published + b"by hand")
    assert robust("models", "import", tmp_path / "c.pt", "--name", "theirs") == 0
    weights.unlink()
    record = read_record("theirs")
    assert record is not None and record.source == "https://example.org/x: c.pt" and len(record.files) == 3
    hub.files["a.pt"] = published[:-1] + b"x"
    capsys.readouterr()
    assert robust("pull", "theirs") == 1
    error = capsys.readouterr().err
    assert f"expected {hashlib.sha256(published).hexdigest()}" in error and "b.pt has 7 bytes, expected" in error


def test_a_file_brought_by_hand_must_be_one_that_was_taken_before(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 0
    (home() / "weights" / "theirs.safetensors").unlink()
    (tmp_path / "a.pt").write_bytes(published + b"changed")
    assert robust("models", "import", tmp_path / "a.pt", "--name", "theirs") == 2
    assert "is not the published file of theirs" in capsys.readouterr().err
    (tmp_path / "a.pt").write_bytes(published)
    assert robust("models", "import", tmp_path / "a.pt", "--name", "theirs") == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("files", 401, times=9), "access refused (401)"),
        (Fault("files", 403, times=9), "access refused (403)"),
        (Fault("files", 404, times=9), "there is no such file (404)"),
        (Fault("files", 410, times=9), "there is no such file (410)"),
        (Fault("files", 408, times=9), "answered 408; gave up after 5 attempts"),
        (Fault("files", 418, times=9), "answered 418"),
        (Fault("files", 429, times=9), "answered 429; gave up after 5 attempts"),
        (Fault("files", 500, times=9), "answered 500; gave up after 5 attempts"),
        (Fault("files", 502, times=9), "answered 502; gave up after 5 attempts"),
        (Fault("files", 503, times=9, headers={"Retry-After": "0"}), "answered 503"),
        (Fault("files", 204, times=9, body=b""), "answered 204"),
        (Fault("files", 200, times=9, body=b""), "0 bytes"),
        (Fault("files", html=True, times=9), "answered with a web page (HTML)"),
        (Fault("files", cut=100, times=9), "gave up after 5 attempts"),
        (Fault("files", flip=True, times=9), "its SHA-256 is"),
        (Fault("files", chunked=b"more", times=9), "sends more than the"),
    ],
)
def test_a_bad_answer_gets_its_message_and_the_same_command_completes_later(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str], fault: Fault, message: str
) -> None:
    hub.files["a.pt"] = published
    known = {"sha256": hashlib.sha256(published).hexdigest(), "size": len(published)}
    add_entry(tmp_path, [url(hub) | known])
    hub.faults.append(fault)
    assert robust("pull", "theirs") == 1
    assert message in capsys.readouterr().err
    assert not (home() / "weights" / "theirs.safetensors").exists()
    hub.faults.clear()
    assert robust("pull", "theirs") == 0


def test_a_wrong_size_is_named_before_anything_is_fetched(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub) | {"size": 12}])
    assert robust("pull", "theirs") == 1
    assert f"has {len(published)} bytes, expected 12" in capsys.readouterr().err


def test_a_file_brought_by_hand_is_checked_and_taken(
    tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    page = {"page": "https://example.org/x", "file": "w.pt", "sha256": hashlib.sha256(published).hexdigest()}
    add_entry(tmp_path, [page])
    (tmp_path / "w.pt").write_bytes(published[:-1])
    assert robust("models", "import", tmp_path / "w.pt", "--name", "theirs") == 2
    assert "is not the published file of theirs" in capsys.readouterr().err
    (tmp_path / "w.pt").write_bytes(published)
    assert robust("models", "import", tmp_path / "w.pt", "--name", "theirs") == 0
    robustctl.load_model("theirs")


def test_key_rules_can_be_overridden_for_a_file_brought_by_hand(tmp_path: Path, published: bytes) -> None:
    add_entry(tmp_path, [{"page": "https://example.org/x", "file": "w.pt"}], keys={})
    (tmp_path / "w.pt").write_bytes(published)
    assert robust("models", "import", tmp_path / "w.pt", "--name", "theirs") == 2
    assert robust("models", "import", tmp_path / "w.pt", "--name", "theirs", "--strip", "module.") == 0


def test_offline_names_what_is_missing_and_how_to_bring_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert robust("pull", "salman-rn50") == 1
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in error
    assert "bring the file: download resnet50_linf_eps4.0.ckpt" in error


def _fetch_in_process(name: str) -> None:
    fetch_entry(name, read_entry(name))


def test_two_processes_that_fetch_an_entry_at_once_fetch_it_once(
    hub: Server, tmp_path: Path, published: bytes, conv_model: Classifier
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fetch_in_process, args=("theirs",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len([line for line in hub.log if "a.pt" in line]) == 1
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustctl.load_model("theirs")(x), conv_model(x))
    assert robust("models", "verify", "theirs", "--local") == 0


def test_verify_asks_the_sources_without_fetching(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.add("them/m", {"w.pt": published})
    hub.files["a.pt"] = published
    add_entry(tmp_path, [{"repo": "them/m", "revision": commit, "file": "w.pt"}, url(hub)])
    assert robust("models", "verify", "theirs") == 0
    assert capsys.readouterr().out.count("answers") == 2
    assert not [line for line in hub.log if "resolve" in line]
    hub.files.clear()
    assert robust("models", "verify", "theirs") == 1
    assert "FAULT" in capsys.readouterr().out


def test_verify_knows_the_size_of_the_first_download(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 0
    hub.files["a.pt"] = published + b"grown"
    capsys.readouterr()
    assert robust("models", "verify", "theirs") == 1
    assert f"has {len(published) + 5} bytes, expected {len(published)}" in capsys.readouterr().out


@pytest.mark.parametrize("there", [True, False])
def test_a_repo_of_many_entries_is_asked_once(hub: Server, there: bool) -> None:
    name = "them/m" if there else "them/gone"
    hub.add("them/m", {"w.pt": b"weights"})
    list_files = asked_once()
    source = {"repo": name, "revision": "main", "file": "w.pt"}
    for _ in range(3):
        said = check_sources(Entry.model_validate(CONTENT | {"sources": [source]}), "x", list_files)
        assert said[0].state == "answers" if there else "is not on" in str(said[0].fault)
    assert len([line for line in hub.log if line.startswith("GET /api")]) == (2 if there else 1)


def test_a_mirror_credits_its_source_and_gives_the_same_logits(
    hub: Server, tmp_path: Path, published: bytes, conv_model: Classifier
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)])
    assert robust("models", "mirror", "theirs", "--repo", "alice/mirror") == 0
    card = hub.read("alice/mirror", "README.md").decode()
    assert "license: mit" in card
    assert "Somebody: Something. 2020" in card
    assert f"{hub.url}/files/a.pt" in card
    assert hashlib.sha256(published).hexdigest() in card
    assert "<b>" not in card
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustctl.load_model("alice/mirror")(x), conv_model(x))


def test_a_mirror_of_unknown_licence_is_refused_before_the_download(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["a.pt"] = published
    add_entry(tmp_path, [url(hub)], licence=None)
    assert robust("models", "mirror", "theirs", "--repo", "alice/mirror") == 2
    assert "the licence of theirs" in capsys.readouterr().err
    assert not [line for line in hub.log if "files" in line]


def test_a_misspelt_entry_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("pull", "gowal-wrn71") == 2
    assert "Did you mean 'gowal-wrn70'?" in capsys.readouterr().err


def test_the_table_of_all_sources_tells_what_answers_and_what_changed(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustctl.models.find.BUNDLED", tmp_path / "none")
    commit = hub.add("them/m", {"w.pt": published})
    hub.files["a.pt"] = published
    add_entry(
        tmp_path,
        [
            {"repo": "them/m", "revision": commit, "file": "w.pt"},
            {"repo": "them/m", "revision": commit, "file": "w.pt", "size": 1},
            {"repo": "them/m", "revision": commit, "file": "other.pt"},
            {"page": "https://example.org/page", "file": "w.pt"},
            url(hub),
        ],
    )
    assert robust("models", "verify", "--all") == 1
    said = capsys.readouterr().out
    assert "5 sources: 2 answers, 1 changed, 1 gone, 1 by hand" in said
    assert "has no file other.pt" in said
    assert f"its size is {len(published)} on the hub now, expected 1" in said


def test_pull_takes_other_key_rules_and_asks_to_report_them(
    hub: Server, tmp_path: Path, published: bytes, capsys: pytest.CaptureFixture[str], conv_model: torch.nn.Module
) -> None:
    wrapped = {"module." + name: tensor for name, tensor in conv_model.net.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state": wrapped}, buffer)
    hub.files["a.pt"] = buffer.getvalue()
    add_entry(tmp_path, [url(hub)])
    assert robust("pull", "theirs") == 1
    assert robust("pull", "theirs", "--at", "state", "--strip", "module.") == 0
    said = capsys.readouterr().err
    assert "should say what you said (--at state --strip module.)" in said
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustctl.load_model("theirs")(x), conv_model(x))
    assert robust("pull", "theirs", "--strip", "other.") == 2
    assert "robustctl models remove theirs" in capsys.readouterr().err


def test_sources_are_not_asked_and_left_alone_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "verify", "--all", "--local") == 2
    assert "give one of them" in capsys.readouterr().err
