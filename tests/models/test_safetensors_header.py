"""Hashing weights without torch."""

from pathlib import Path

import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.models.safetensors_header import weights_sha256
from robustctl.spec import Architecture, ModelSpec


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_hash_of_a_file_is_the_hash_of_its_model(tmp_path: Path, dtype: torch.dtype) -> None:
    architecture = Architecture(name="wide-resnet", args={"depth": 10, "width": 1})
    spec = ModelSpec(architecture=architecture, input_shape=(3, 32, 32), n_classes=10, dataset="cifar10")
    model = build(spec).to(dtype)
    checkpoint.save_model(model, spec, tmp_path)
    assert weights_sha256(tmp_path / "model.safetensors") == checkpoint.weights_sha256(model)


@pytest.mark.parametrize("content", [b"", b"short", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 20])
def test_what_is_no_safetensors_file_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="truncated or not a safetensors file"):
        weights_sha256(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save_tensors({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="a lies outside the file"):
        weights_sha256(path)
