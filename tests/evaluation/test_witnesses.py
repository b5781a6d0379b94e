"""Files of witnesses: lossless, bounded, and of one evaluation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.evaluation import witnesses
from robustctl.evaluation.witnesses import Origin, PublishedWitnesses, pack, unpack
from robustctl.threats import NORMS, Norm, Threat

EPS: dict[Norm, str] = {"linf": "8/255", "l2": "0.5", "l1": "12"}
ORIGIN = Origin(weights_sha256="a", model_sha256="b", content_sha256="c", threats=EPS)


def _moved(norm: Norm, seed: int) -> tuple[Tensor, Tensor]:
    """Images and what an attack of the norm may make of them, with every kind of float in it."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (5, 3, 4, 4), generator=made).float() / 255
    eps = Threat.of(norm, EPS[norm]).eps
    noise = torch.randn(x.shape, generator=made)
    step = {"linf": noise.sign() * eps, "l2": noise * eps / 7, "l1": torch.where(noise > 1, noise, 0.0)}[norm]
    x_adv = (x + step).clamp(0, 1)
    x_adv[0] = x[0]
    x_adv[1, 0, 0, :2] = torch.tensor([-0.0, 1e-42])  # the other zero, and a number below the normal ones
    return x, x_adv


@pytest.mark.parametrize("norm", NORMS)
def test_packed_images_come_back_bit_by_bit(norm: Norm) -> None:
    threat = Threat.of(norm, EPS[norm])
    for seed in range(5):
        x, x_adv = _moved(norm, seed)
        back = unpack(pack(x_adv, x, threat), x, threat)
        assert torch.equal(back.view(torch.int32), x_adv.view(torch.int32))


def test_pixels_at_the_edge_of_the_ball_take_next_to_nothing() -> None:
    threat = Threat.of("linf", EPS["linf"])
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x_adv = (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign() * threat.eps).clamp(0, 1)
    assert len(pack(x_adv, x, threat)) < x.numel() / 4  # against 4 bytes a pixel


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
    x, _ = _moved("linf", 0)
    return ImageData(x, torch.zeros(5, dtype=torch.int64), 10, "made", "test", torch.tensor([7, 5, 3, 2, 11]))


def _written(path: Path, data: ImageData) -> tuple[PublishedWitnesses, dict[Norm, Tensor]]:
    images = {norm: _moved(norm, 0)[1] for norm in EPS}
    assert witnesses.write(path, _Made(images), ORIGIN, data) == {"linf": 2, "l2": 2, "l1": 2}  # type: ignore[arg-type]
    return witnesses.read(path), images


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_file_gives_back_every_image_at_its_point(
    tmp_path: Path, data: ImageData, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnesses, "CHUNK_BYTES", chunk)
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


@pytest.mark.parametrize(
    "content", [b"", b"x" * 40, pack(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), Threat.of("l1", "1"))]
)
def test_damaged_bytes_and_bytes_of_more_images_are_refused(tmp_path: Path, data: ImageData, content: bytes) -> None:
    found, _ = _written(tmp_path / "w.safetensors", data)
    packed = torch.tensor(list(content), dtype=torch.uint8)
    other = PublishedWitnesses(found.path, found.origin, {**found.tensors, "l1.delta.0": packed})
    with pytest.raises(RequestError, match=r"l1\.delta\.0 is damaged"):
        list(other.batches(Threat.of("l1", "12"), data))


def test_weights_are_no_witnesses(model_dir: Path) -> None:
    with pytest.raises(RequestError, match="holds no witnesses"):
        witnesses.read(model_dir / "model.safetensors")
