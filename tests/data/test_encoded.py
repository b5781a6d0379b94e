import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.data.encoded import EncodedData
from robustctl.data.folder import find
from robustctl.data.resize import centre
from robustctl.errors import RequestError
from robustctl.spec import Resize

RESIZE = Resize(side=36)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def lazy(folder: Path, split: str = "train", any_size: bool = True) -> EncodedData:
    found = find(folder, split)
    return EncodedData(found.images, found.y, found.n_classes, str(folder), split, torch.arange(len(found.y)), any_size)


@pytest.fixture
def equal(tmp_path: Path) -> Path:
    """Images of one size, one of them grey."""
    for label in ("ant", "bee"):
        (tmp_path / "equal" / "train" / label).mkdir(parents=True)
        for i in range(5):
            image = photograph(20, 20, i).convert("L" if (label, i) == ("bee", 2) else "RGB")
            (tmp_path / "equal" / "train" / label / f"{i}.jpg").write_bytes(encoded(image))
    return tmp_path / "equal"


@pytest.mark.parametrize("any_size", [False, True])
def test_images_of_the_models_size_are_those_of_the_eager_source(equal: Path, any_size: bool) -> None:
    eager = data.load(str(equal), "train")
    images = lazy(equal, any_size=any_size).decoded((3, 20, 20), RESIZE if any_size else None)
    assert torch.equal(images.x, eager.x) and torch.equal(images.y, eager.y)
    assert images.content_sha256 == eager.content_sha256 and images.index_sha256 == eager.index_sha256
    assert images.preprocessing is None


def test_images_of_other_sizes_are_resized_and_cut_as_by_hand(photographs: Path) -> None:
    images = lazy(photographs, "val").decoded((3, 32, 32), RESIZE)
    assert images.preprocessing == "shorter side to 36 (bilinear), centre 32x32"
    paths = [photographs / "val" / f"n{label:08}" / f"n{label:08}_{i}.JPEG" for i in range(3) for label in range(4)]
    for x, path in zip(images.x, paths, strict=True):
        by_hand = centre(Image.open(path).convert("RGB"), RESIZE, 32)
        assert torch.equal(x, torch.from_numpy(np.array(by_hand)).permute(2, 0, 1)), path


def test_one_image_of_another_size_is_enough_to_resize_all(equal: Path) -> None:
    (equal / "train" / "ant" / "9.jpg").write_bytes(encoded(photograph(21, 20)))
    assert lazy(equal).decoded((3, 20, 20), RESIZE).preprocessing is not None


def test_where_resizing_is_not_allowed_an_image_of_another_size_is_named(equal: Path) -> None:
    (equal / "train" / "ant" / "9.jpg").write_bytes(encoded(photograph(21, 20)))
    with pytest.raises(RequestError, match=r"9\.jpg is 21x20, the model takes 20x20"):
        lazy(equal, any_size=False).decoded((3, 20, 20), None)
    with pytest.raises(RequestError, match=r"images of .*equal \(train\) are 3x20x20, the model takes 3x32x32"):
        lazy(equal, any_size=False).require((3, 32, 32), 2)


def test_colours_are_refused_by_a_grey_model(equal: Path) -> None:
    with pytest.raises(RequestError, match="has colours, the model takes 1 channel"):
        lazy(equal).decoded((1, 20, 20), RESIZE)


def test_a_thin_image_is_named(equal: Path) -> None:
    (equal / "train" / "ant" / "9.jpg").write_bytes(encoded(photograph(1, 1000)))
    with pytest.raises(RequestError, match=r"cannot resize .*9\.jpg: 1000x1 pixels"):
        lazy(equal).decoded((3, 224, 224), Resize(side=256))


def test_a_damaged_file_and_one_that_vanished_are_named(equal: Path) -> None:
    whole = lazy(equal)
    path = equal / "train" / "bee" / "0.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:-60])
    with pytest.raises(RequestError, match=f"cannot decode {path}: .*truncated"):
        whole.decoded((3, 20, 20), None)
    path.unlink()
    with pytest.raises(RequestError, match=f"cannot read {path}: No such file"):
        whole.decoded((3, 20, 20), None)


def test_the_content_hash_follows_names_and_labels_and_lets_a_file_be_replaced(equal: Path) -> None:
    whole = lazy(equal)
    (equal / "train" / "bee" / "0.jpg").write_bytes(b"other")
    assert lazy(equal).content_sha256 == whole.content_sha256
    others = [whole.select(range(9)), EncodedData(whole.encoded, whole.y.flip(0), 2, "", "train", whole.indices)]
    (equal / "train" / "bee" / "0.jpg").rename(equal / "train" / "bee" / "00.jpg")
    assert len({one.content_sha256 for one in (whole, *others, lazy(equal))}) == 4


def test_a_selection_keeps_its_indices_and_its_images(photographs: Path) -> None:
    whole = lazy(photographs)
    part = whole.select([5, 2, 9]).select([2, 0])
    assert part.indices.tolist() == [9, 5] and torch.equal(part.y, whole.y[[9, 5]])
    assert torch.equal(part.decoded((3, 32, 32), RESIZE).x, whole.decoded((3, 32, 32), RESIZE).x[[9, 5]])


def test_nothing_decoded_stays_in_memory(photographs: Path) -> None:
    whole = lazy(photographs)
    whole.decoded((3, 32, 32), RESIZE)
    stored = [value for owner in (whole, whole.encoded) for value in vars(owner).values()]
    tensors = [value for value in stored if isinstance(value, torch.Tensor)]
    assert all(tensor.shape == (len(whole),) for tensor in tensors)
    assert not any(isinstance(value, bytes | bytearray | np.ndarray | Image.Image) for value in stored)
    assert all(isinstance(name, str) for name in whole.encoded.names)
