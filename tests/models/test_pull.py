"""Pulling with the real hub client from a hub on the loopback."""

import json
import multiprocessing
import re
import socket
from pathlib import Path

import pytest
import torch
from hub_server import Fault, Server

import robustctl
from robustctl import checkpoint
from robustctl.errors import RequestError, RunError
from robustctl.hub.plain_directory import push
from robustctl.models import pull as module
from robustctl.models.find import find_model, pulled
from robustctl.models.find import home as home_dir
from robustctl.models.pull import pull
from robustctl.models.shelf import remove, verify_weights
from robustctl.spec import ModelSpec

WEIGHTS = r"GET /alice/m/resolve/.*model.safetensors"


@pytest.fixture
def repo(hub: Server, model_dir: Path) -> str:
    files = {path.name: path.read_bytes() for path in model_dir.iterdir()}
    hub.add("alice/m", {**files, "README.md": b"---\nlicense: mit\n---\n", "extra.bin": b"not ours"})
    return "alice/m"


def test_a_pulled_model_is_the_pushed_one_bit_by_bit(repo: str, model_dir: Path) -> None:
    directory = pull(repo)
    assert (directory / "model.safetensors").read_bytes() == (model_dir / "model.safetensors").read_bytes()
    found_model = find_model(repo)
    x = torch.rand(3, 1, 8, 8)
    pulled, _ = checkpoint.load_model(directory)
    original, _ = checkpoint.load_model(model_dir)
    assert torch.equal(pulled(x), original(x))
    assert found_model.licence == "mit"
    assert not (directory / "extra.bin").exists()


def test_a_pull_is_pinned_to_the_commit_that_the_branch_was(hub: Server, repo: str) -> None:
    directory = pull(repo)
    assert directory.name == hub.repos[repo].branches["main"]
    newer = hub.add(repo, {"README.md": b"newer"})
    assert find_model(repo).weights.parent == directory
    assert pull(repo).name == newer
    assert find_model(f"{repo}@{directory.name}").weights.parent == directory


def test_a_branch_is_named_with_an_at_sign(hub: Server, repo: str) -> None:
    commit = hub.add(repo, {**hub.tree(hub.repos[repo], "main"), "README.md": b"v1"}, branch="v1")
    assert pull(repo, "v1").name == commit
    assert find_model(f"{repo}@v1").weights.parent.name == commit


def test_remove_takes_one_revision_and_the_last_one_takes_all(hub: Server, repo: str) -> None:
    commit = hub.add(repo, {**hub.tree(hub.repos[repo], "main"), "README.md": b"v1"}, branch="v1")
    hub.repos[repo].branches["v2"] = commit
    main, v1, v2 = pull(repo), pull(repo, "v1"), pull(repo, "v2")
    assert v1 == v2 != main
    remove(f"{repo}@v1")
    assert pulled() == [repo, f"{repo}@v2"] and v2.is_dir() and main.is_dir()
    remove(f"{repo}@v2")
    assert pulled() == [repo] and not v2.exists() and main.is_dir()
    with pytest.raises(RequestError, match="is not here"):
        remove(f"{repo}@v2")
    assert remove(repo) == [main.parent]
    assert not main.parent.exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub: Server, repo: str, status: int) -> None:
    hub.faults += [Fault(WEIGHTS, status, times=2), Fault(r"/api/models/", status)]
    assert (pull(repo) / "model.safetensors").is_file()


@pytest.mark.parametrize("status", [429, 500])
def test_a_hub_that_stays_busy_is_a_run_error_and_the_next_pull_completes(hub: Server, repo: str, status: int) -> None:
    hub.faults.append(Fault(WEIGHTS, status, times=100))
    with pytest.raises(RunError, match=f"answered {status}.*the same command continues"):
        pull(repo)
    hub.faults.clear()
    assert pull(repo).is_dir()


def test_a_short_body_is_continued_where_it_ended(hub: Server, repo: str, model_dir: Path) -> None:
    hub.faults.append(Fault(WEIGHTS, cut=1000))
    directory = pull(repo)
    assert (directory / "model.safetensors").read_bytes() == (model_dir / "model.safetensors").read_bytes()
    assert len([line for line in hub.log if "model.safetensors" in line]) == 2


def test_bytes_of_an_interrupted_pull_are_kept_and_continued(hub: Server, repo: str) -> None:
    hub.faults.append(Fault(WEIGHTS, cut=100, times=100))
    with pytest.raises(RunError, match="gave up after 5 attempts, the same command continues"):
        pull(repo)
    (part,) = home_dir().rglob("model.safetensors.part")
    assert part.stat().st_size >= 100
    hub.faults.clear()
    assert pull(repo).is_dir()
    assert not list(home_dir().rglob("*.part"))


def test_a_web_page_instead_of_weights_is_called_by_its_name(hub: Server, repo: str) -> None:
    hub.faults.append(Fault(WEIGHTS, html=True, times=100))
    with pytest.raises(RunError, match=r"web page \(HTML\)"):
        pull(repo)
    assert not list(home_dir().rglob("model.safetensors"))


def test_changed_bytes_are_deleted_and_never_used(hub: Server, repo: str) -> None:
    hub.faults.append(Fault(WEIGHTS, flip=True))
    with pytest.raises(RunError, match="SHA-256 is .*, expected"):
        pull(repo)
    assert not list(home_dir().rglob("model.safetensors*"))
    assert pull(repo).is_dir()


def test_a_body_longer_than_announced_is_cut_off(hub: Server, repo: str) -> None:
    hub.faults.append(Fault(WEIGHTS, chunked=b"x" * 1000))
    with pytest.raises(RunError, match="more than the"):
        pull(repo)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the token"), (403, "lacks the right"), (404, "is not on")],
)
def test_refusals_are_request_errors(hub: Server, repo: str, status: int, message: str) -> None:
    hub.faults.append(Fault(r"GET /api/models/", status, times=100))
    with pytest.raises(RequestError, match=message):
        pull(repo)


def test_an_unknown_repo_and_an_unknown_revision_are_told_apart(repo: str) -> None:
    with pytest.raises(RequestError, match="alice/x is not on"):
        pull("alice/x")
    with pytest.raises(RequestError, match="alice/m has no branch, tag or commit 'v9' on"):
        pull(repo, "v9")


def test_a_repo_of_somebody_else_is_refused_before_anything_is_fetched(hub: Server) -> None:
    hub.add("bob/gpt", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(RequestError, match="not a model of robustctl"):
        pull("bob/gpt")


def test_a_config_that_names_code_is_refused_and_leaves_nothing(hub: Server, repo: str) -> None:
    hub.add(repo, {"config.json": b'{"architecture": {"name": "os.system"}, "auto_map": "evil.py"}'})
    with pytest.raises(RequestError, match="its config.json is of another library"):
        pull(repo)
    with pytest.raises(RequestError, match="neither a directory nor a pulled repo"):
        find_model(repo)


def spec(**changes: object) -> bytes:
    content: dict[str, object] = {
        "schema": "robustctl.model/1",
        "architecture": {"name": "kw-small", "args": {"width": 2, "hidden": 8}},
        "input_shape": [1, 8, 8],
        "n_classes": 10,
        "dataset": "digits",
    }
    return json.dumps(content | changes).encode()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            spec(architecture={"name": "os.system", "args": {"command": "touch trace"}}),
            "unknown architecture 'os.system'",
        ),
        (spec(architecture={"name": "../registry/hub", "args": {}}), "unknown architecture"),
        (spec(architecture={"name": "wide_resnet.WideResNet", "args": {}}), "unknown architecture"),
    ],
    ids=range(3),
)
def test_a_valid_config_whose_architecture_is_code_is_refused_before_the_weights(
    hub: Server, repo: str, config: bytes, message: str
) -> None:
    hub.add(repo, {"config.json": config})
    with pytest.raises(RequestError, match=message):
        pull(repo)
    assert not [line for line in hub.log if "safetensors" in line]


def test_weights_larger_than_the_config_allows_are_refused_before_they_are_fetched(
    hub: Server, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNQUESTIONED", 1000)
    monkeypatch.setattr(module, "SMALL", 10_000)
    assert pull(repo).is_dir()
    hub.add(repo, {"model.safetensors": b"x" * 30_000})
    with pytest.raises(RequestError, match=r"has weights of 30000 bytes; its config.json describes at most \d+"):
        pull(repo)


@pytest.mark.parametrize(
    "path",
    ["robustctl/huge.safetensors", "robustctl/a/b.json", "robustctl/x.pkl", "model-1/2.safetensors", "x.safetensors"],
)
def test_files_that_push_does_not_write_are_not_fetched(hub: Server, repo: str, path: str) -> None:
    hub.add(repo, {path: b"x"})
    assert not (pull(repo) / path).exists()


def test_the_number_of_files_and_their_sum_are_bounded(hub: Server, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(repo, {f"robustctl/eval-{i}.json": b"x" * 100 for i in range(5)})
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_FILES", 7)
        with pytest.raises(RequestError, match="alice/m has 8 files of a model, more than 7"):
            pull(repo)
    monkeypatch.setattr(module, "ALL_SMALL", 500)
    with pytest.raises(RequestError, match=r"alice/m has \d+ bytes beside its weights, more than 500"):
        pull(repo)


@pytest.mark.parametrize("path", ["robustctl/../../evil", "/etc/x", "robustctl/a\\b", "robustctl/c:d"])
def test_file_names_cannot_leave_their_folder(hub: Server, repo: str, path: str) -> None:
    hub.add(repo, {path: b"x"})
    with pytest.raises(RequestError, match="leaves its folder"):
        pull(repo)


def test_a_huge_card_is_refused_before_it_is_fetched(hub: Server, repo: str) -> None:
    hub.add(repo, {"README.md": b"x" * 10_000_001})
    with pytest.raises(RequestError, match="more than 10000000; nothing was fetched"):
        pull(repo)


def test_offline_opens_no_socket(repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = pull(repo)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert pull(repo) == directory
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set"):
        pull("alice/other")


def test_the_path_of_a_directory_may_hold_an_at_sign(tmp_path: Path, model_dir: Path) -> None:
    place = tmp_path / "me@work" / "m"
    push(f"file://{place}", {path.name: path for path in model_dir.iterdir()}, {}, re.compile("none"))
    model = robustctl.load_model(f"file://{place}")
    assert pulled() == [f"file://{place}"]
    original, _ = checkpoint.load_model(model_dir)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(x), original(x))
    assert dict(verify_weights(f"file://{place}")) == {f"file://{place}": None}


def _pull_in_process(repo: str) -> None:
    pull(repo)


def test_two_processes_that_pull_at_once_do_not_harm_each_other(repo: str) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_pull_in_process, args=(repo,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    checkpoint.load_model(find_model(repo).weights.parent)


def test_a_full_disk_is_named_and_the_same_command_completes_later(hub: Server, repo: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    commit = hub.repos[repo].branches["main"]
    staging = home_dir() / "hub" / "alice" / "m" / f".{commit}.part"
    staging.mkdir(parents=True)
    (staging / "model.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(RunError, match="no space left while writing .*model.safetensors"):
        pull(repo)
    assert not (staging / "model.safetensors").exists()
    (staging / "model.safetensors.part").unlink()
    assert pull(repo).is_dir()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"{", "cannot read"),
        (b"[]", "cannot read"),
        (b'{"weight_map": {"a": "../../etc/passwd"}}', "names files outside its directory"),
        (b'{"weight_map": {"a": "model-00009-of-00009.safetensors"}}', "no weights at"),
    ],
)
def test_a_bad_index_of_shards_is_refused(hub: Server, repo: str, index: bytes, message: str) -> None:
    files = hub.tree(hub.repos[repo], "main")
    hub.repos[repo].commits.clear()
    hub.repos[repo].branches.clear()
    del files["model.safetensors"]
    hub.add(repo, {**files, "model.safetensors.index.json": index})
    found_model = find_model(str(pull(repo)))
    with pytest.raises(RequestError, match=message):
        checkpoint.load_from(found_model.spec, found_model.weights)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(None, "no hash is known of config.json, model.safetensors"), (b"", "no hash is known"), (b"\xff", "cannot read")],
)
def test_a_pulled_repo_without_its_hashes_is_not_called_intact(repo: str, content: bytes | None, fault: str) -> None:
    sums = pull(repo) / "SHA256SUMS"
    sums.unlink() if content is None else sums.write_bytes(content)
    assert fault in str(dict(verify_weights(repo))[repo])


def test_verify_finds_changed_weights_of_a_pulled_repo(repo: str) -> None:
    weights = pull(repo) / "model.safetensors"
    assert dict(verify_weights(repo)) == {repo: None}
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "is not what was fetched" in str(dict(verify_weights(None))[repo])


def test_weights_of_another_library_s_model_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustctl.architectures.empty_copy", lambda spec: None)  # as if its package were missing
    known = ModelSpec.model_validate_json(spec())
    module._check_spec("user/model", known, 10 << 30)
    with pytest.raises(RequestError, match="describes at most"):
        module._check_spec("user/model", known, 100 << 30)
