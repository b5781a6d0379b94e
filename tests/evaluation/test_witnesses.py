"""Files of witnesses: lossless, bounded, and of one evaluation."""

from pathlib import Path

import pytest
import torch
from perturbed import EPS, moved
from torch import Tensor

from robustctl import checkpoint
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.evaluation import witness_code, witnesses
from robustctl.evaluation.witness_code import pack
from robustctl.evaluation.witnesses import Origin, PublishedWitnesses
from robustctl.threats import Norm, Threat

ORIGIN = Origin(weights_sha256="a", model_sha256="b", content_sha256="c", threats=EPS)


class _Made:
    """Witnesses of the points with odd positions."""

    def __init__(self, images: dict[Norm, Tensor]) -> None:
        self.images = images

    def indices(self, norm: Norm) -> list[int]:
        return list(range(1, len(self.images[norm]), 2))

    def batches(self, threat: Threat, data: ImageData) -> "list[witnesses.Batch]":
        found = self.indices(threat.norm)
        return [([position], self.images[threat.norm][position : position + 1]) for position in found]  # type: ignore[return-value]


@pytest.fixture
def data() -> ImageData:
    x, _ = moved("linf", 0)
    return ImageData(x, torch.zeros(5, dtype=torch.int64), 10, "made", "test", torch.tensor([7, 5, 3, 2, 11]))


def _written(path: Path, data: ImageData) -> tuple[PublishedWitnesses, dict[Norm, Tensor]]:
    images = {norm: moved(norm, 0)[1] for norm in EPS}
    assert witnesses.write(path, _Made(images), ORIGIN, data) == {"linf": 2, "l2": 2, "l1": 2}  # type: ignore[arg-type]
    return witnesses.read(path, len(data)), images


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_file_gives_back_every_image_at_its_point(
    tmp_path: Path, data: ImageData, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_code, "CHUNK_BYTES", chunk)
    found, images = _written(tmp_path / "w.safetensors", data)
    for norm in EPS:
        assert found.indices(norm) == [5, 2]
        for positions, x_adv in found.batches(Threat.of(norm, EPS[norm]), data):
            assert torch.equal(x_adv, images[norm][positions])
    assert found.origin == ORIGIN


def test_a_file_of_other_points_is_refused(tmp_path: Path, data: ImageData) -> None:
    found, _ = _written(tmp_path / "w.safetensors", data)
    with pytest.raises(RequestError, match="witness of point 5"):
        list(found.batches(Threat.of("linf", "8/255"), data.select([0, 2])))


def _forged(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Change tensors of a file, and its metadata."""
    known = {**checkpoint.read_metadata(path), **(metadata or {})}
    checkpoint.save_tensors({**checkpoint.read_tensors(path), **tensors}, path, known)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 40, pack(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), Threat.of("l1", "1"))]
)
@pytest.mark.parametrize("schema", [witnesses.SCHEMA, witnesses.EARLIER])
def test_damaged_bytes_and_bytes_of_more_images_are_refused(
    tmp_path: Path, data: ImageData, content: bytes, schema: str
) -> None:
    path = tmp_path / "w.safetensors"
    _written(path, data)
    _forged(path, {"l1.delta.0": torch.tensor(list(content), dtype=torch.uint8)}, {"schema": schema})
    with pytest.raises(RequestError, match=r"l1\.delta\.0 is damaged"):
        list(witnesses.read(path, 5).batches(Threat.of("l1", "12"), data))


def test_a_chunk_that_no_images_can_need_is_not_even_read(tmp_path: Path, data: ImageData) -> None:
    path = tmp_path / "w.safetensors"
    _written(path, data)
    _forged(path, {"l1.delta.0": torch.zeros(1 << 20, dtype=torch.uint8)})
    with pytest.raises(RequestError, match=r"l1\.delta\.0 has 1048576 numbers; there can be at most"):
        list(witnesses.read(path, 5).batches(Threat.of("l1", "12"), data))


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (torch.arange(6), "6 numbers; there can be at most 5"),
        (torch.tensor([5, 5]), "no list of different points"),
        (torch.tensor([[5, 2]]), "no list of different points"),
        (torch.tensor([5.0, 2.0]), "float32, not int64"),
    ],
)
def test_a_list_of_points_that_cannot_be_one_is_refused(
    tmp_path: Path, data: ImageData, index: Tensor, reason: str
) -> None:
    path = tmp_path / "w.safetensors"
    _written(path, data)
    _forged(path, {"l1.index": index})
    with pytest.raises(RequestError, match=reason):
        witnesses.read(path, 5)


def test_weights_are_no_witnesses(model_dir: Path) -> None:
    with pytest.raises(RequestError, match="holds no witnesses"):
        witnesses.read(model_dir / "model.safetensors", 5)


def test_the_same_witnesses_make_the_same_bytes(tmp_path: Path, data: ImageData) -> None:
    """So that a second push finds them there already; the library alone writes its texts in an order of chance."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        _written(path, data)
    assert len({path.read_bytes() for path in paths}) == 1
