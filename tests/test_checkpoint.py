import json
import struct
from pathlib import Path

import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import Classifier, build
from robustctl.errors import RequestError
from robustctl.models.safetensors_header import weights_sha256
from robustctl.spec import Architecture, ModelSpec


@pytest.fixture
def directory(conv_model: Classifier, conv_spec: ModelSpec, tmp_path: Path) -> Path:
    checkpoint.save_model(conv_model, conv_spec, tmp_path)
    return tmp_path


def test_a_model_survives_being_saved_and_loaded_bit_for_bit(directory: Path, conv_model: Classifier) -> None:
    model, _ = checkpoint.load_model(directory)
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(x), conv_model(x))
    assert checkpoint.weights_sha256(model) == checkpoint.weights_sha256(conv_model)
    assert not model.training
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_batch_norm_buffers_are_saved_too(tmp_path: Path) -> None:
    spec = ModelSpec(
        architecture=Architecture(name="wide-resnet", args={"depth": 10, "width": 1}),
        input_shape=(3, 8, 8),
        n_classes=3,
        dataset="d",
    )
    model = build(spec).train()
    model(torch.rand(4, 3, 8, 8))
    checkpoint.save_model(model, spec, tmp_path)
    loaded, _ = checkpoint.load_model(tmp_path)
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], tensor), name


def test_the_hash_of_weights_changes_with_one_value_and_with_a_name(conv_model: Classifier) -> None:
    before = checkpoint.weights_sha256(conv_model)
    with torch.no_grad():
        next(conv_model.parameters()).view(-1)[0] += 1e-6
    assert checkpoint.weights_sha256(conv_model) != before


def test_all_faults_of_foreign_weights_are_listed(conv_model: Classifier) -> None:
    tensors = conv_model.net.state_dict()
    del tensors["0.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["7.bias"] = torch.zeros(11)
    with pytest.raises(RequestError) as caught:
        checkpoint.load_weights(conv_model, tensors, "these")
    message = str(caught.value)
    assert "missing 0.bias" in message
    assert "unexpected extra" in message
    assert "7.bias has shape [11], expected [10]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(conv_model: Classifier, value: float) -> None:
    tensors = conv_model.net.state_dict()
    tensors["2.bias"] = torch.full_like(tensors["2.bias"], value)
    with pytest.raises(RequestError, match=r"NaN or infinity in: 2\.bias"):
        checkpoint.load_weights(conv_model, tensors, "these")


def test_refused_weights_leave_the_model_as_it_was(conv_model: Classifier) -> None:
    before = checkpoint.weights_sha256(conv_model)
    with pytest.raises(RequestError):
        checkpoint.load_weights(conv_model, {"0.bias": torch.ones(2)}, "these")
    assert checkpoint.weights_sha256(conv_model) == before


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_its_name(directory: Path, fraction: float) -> None:
    path = directory / checkpoint.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(RequestError, match=f"cannot read {path}"):
        checkpoint.load_model(directory)


def test_a_file_that_lost_its_end_says_how_many_bytes_are_there(directory: Path) -> None:
    path = directory / checkpoint.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(RequestError, match=f"{len(whole) - 10} of {len(whole)} bytes"):
        checkpoint.load_model(directory)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 a zip file, as torch writes them"])
def test_a_foreign_file_is_refused(directory: Path, content: bytes) -> None:
    (directory / checkpoint.WEIGHTS).write_bytes(content)
    with pytest.raises(RequestError, match="safetensors"):
        checkpoint.load_model(directory)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no config\.json"):
        checkpoint.load_model(tmp_path)


def test_a_folder_without_weights_is_no_model(directory: Path) -> None:
    (directory / checkpoint.WEIGHTS).unlink()
    with pytest.raises(RequestError, match="no weights at"):
        checkpoint.load_model(directory)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "robustctl.model/9"}', "\xff"])
def test_a_damaged_config_is_refused_by_its_name(directory: Path, text: str) -> None:
    (directory / checkpoint.CONFIG).write_bytes(text.encode("latin1"))
    with pytest.raises(RequestError, match=r"(cannot read .*|/)config\.json"):
        checkpoint.read_spec(directory)


def test_a_bad_radius_in_the_config_is_refused(directory: Path) -> None:
    path = directory / checkpoint.CONFIG
    config = json.loads(path.read_text()) | {"norm": "linf", "eps": "0"}
    path.write_text(json.dumps(config))
    with pytest.raises(RequestError, match="'0'"):
        checkpoint.read_spec(directory)


@pytest.mark.parametrize("header", [b"[" * 100_000 + b"]" * 100_000, b'{"a": NaN}', b"\xff\xfe", b'{"a": 1}'])
def test_a_hostile_header_is_refused_in_one_message(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(RequestError, match="cannot read"):
        checkpoint.read_tensors(path)
    with pytest.raises(RequestError, match="cannot read"):
        weights_sha256(path)
