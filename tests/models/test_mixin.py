"""The hub's own mixin: it loads what robustctl checks, strictly, and nothing else."""

import pickle
from pathlib import Path

import pytest
import torch
from hub_server import Server

from robustctl import checkpoint
from robustctl.architectures import Classifier
from robustctl.errors import RequestError
from robustctl.hub.client import write_shards
from robustctl.models.mixin import RobustClassifier


@pytest.fixture
def files(model_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model_dir.iterdir()}


def assert_same(model: RobustClassifier, original: Classifier) -> None:
    x = torch.rand(2, 1, 8, 8)
    assert not model.training
    assert torch.equal(model(x), original(x))


def test_a_repo_is_pulled_checked_and_loaded(hub: Server, files: dict[str, bytes], conv_model: Classifier) -> None:
    hub.add("alice/m", files)
    assert_same(RobustClassifier.from_pretrained("alice/m"), conv_model)
    commit = hub.repos["alice/m"].branches["main"]
    hub.add("alice/m", {"model.safetensors": b"newer"})
    assert_same(RobustClassifier.from_pretrained("alice/m", revision=commit), conv_model)


def test_a_repo_in_shards_is_loaded(
    hub: Server, files: dict[str, bytes], conv_model: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    write_shards(conv_model.net.state_dict(), tmp_path / "shards", 1000)
    shards = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    assert len(shards) > 2
    hub.add("alice/m", {"config.json": files["config.json"]} | shards)
    assert_same(RobustClassifier.from_pretrained("alice/m"), conv_model)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trace"),))


def test_a_pickle_is_neither_fetched_nor_read(
    hub: Server, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("alice/m", {"config.json": files["config.json"], "pytorch_model.bin": pickle.dumps(Trap())})
    with pytest.raises(RequestError, match="alice/m is not a model of robustctl: it lacks"):
        RobustClassifier.from_pretrained("alice/m")
    assert not [line for line in hub.log if "pytorch_model" in line]
    assert not (tmp_path / "trace").exists()


def test_missing_tensors_are_never_left_random(hub: Server, files: dict[str, bytes], tmp_path: Path) -> None:
    checkpoint.save_tensors({"0.bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    hub.add("alice/m", files | {"model.safetensors": (tmp_path / "w.safetensors").read_bytes()})
    with pytest.raises(RequestError, match="missing 0.weight"):
        RobustClassifier.from_pretrained("alice/m", strict=False)


def test_what_cannot_be_had_is_said(hub: Server, files: dict[str, bytes]) -> None:
    with pytest.raises(RequestError, match="alice/none is not on"):
        RobustClassifier.from_pretrained("alice/none")
    hub.add("alice/m", files)
    with pytest.raises(RequestError, match="set HF_TOKEN"):
        RobustClassifier.from_pretrained("alice/m", token="hf_other")
    with pytest.raises(RequestError, match="alice/m is not here"):
        RobustClassifier.from_pretrained("alice/m", local_files_only=True)
    RobustClassifier.from_pretrained("alice/m")
    RobustClassifier.from_pretrained("alice/m", local_files_only=True)
