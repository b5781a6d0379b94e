"""The 15 corruptions: deterministic, harder with severity, closed forms; and the published files."""

import numpy as np
import pytest

from robustctl.corruptions import NAMES, corrupt, require
from robustctl.corruptions.published import Published
from robustctl.corruptions.shapes import clouds, zoomed
from robustctl.errors import RequestError


def photograph(side: int = 32, channels: int = 3) -> np.ndarray:
    """A smooth picture with edges."""
    rows, columns = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij")
    layers = [0.2 + 0.6 * (np.sin(9 * rows + k) * np.cos(7 * columns) > 0) * (rows + columns) / 2 for k in range(3)]
    return np.rint(np.stack(layers[:channels], axis=2) * 255) / 255


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_made_again_bit_for_bit_and_changes_with_its_image(name: str) -> None:
    image = photograph()
    first = corrupt(image, name, 3, seed=0, index=5)
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert np.array_equal(first, corrupt(image, name, 3, seed=0, index=5))
    assert not np.array_equal(first, np.rint(image * 255))
    random = name not in {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression"}
    for other in (corrupt(image, name, 3, seed=1, index=5), corrupt(image, name, 3, seed=0, index=6)):
        assert np.array_equal(first, other) != random


@pytest.mark.parametrize("name", NAMES)
def test_the_highest_severity_changes_more_than_the_lowest(name: str) -> None:
    if name == "elastic-transform":  # its severities trade the affine map for the flow
        pytest.skip("not ordered in the paper's constants")
    image = photograph()
    change = [
        np.mean([np.abs(corrupt(image, name, severity, 0, i) / 255 - image).mean() for i in range(3)])
        for severity in (1, 5)
    ]
    assert change[1] > change[0] or (name == "frost" and change[1] > 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_grey_and_small_images_are_corrupted_too(name: str) -> None:
    assert corrupt(photograph(8, 1), name, 5, 0, 0).shape == (8, 8, 1)


def test_closed_forms() -> None:
    grey = np.full((32, 32, 3), 102 / 255)
    assert (corrupt(grey, "contrast", 5, 0, 0) == 102).all()
    assert (corrupt(grey, "brightness", 2, 0, 0) == int(102 + 25.5)).all()
    assert (corrupt(grey, "zoom-blur", 5, 0, 0) == 102).all()
    assert (corrupt(grey, "defocus-blur", 5, 0, 0) == 102).all()
    assert (corrupt(grey, "pixelate", 5, 0, 0) == 102).all()
    noise = corrupt(grey, "gaussian-noise", 4, 0, 0) / 255 - grey
    assert noise.std() == pytest.approx(0.09, rel=0.06)
    hit = corrupt(grey, "impulse-noise", 5, 0, 0) != 102
    assert hit.mean() == pytest.approx(0.07, abs=0.015)
    assert set(corrupt(grey, "impulse-noise", 5, 0, 0)[hit]) == {0, 255}
    red = np.zeros((8, 8, 3))
    red[..., 0] = 0.5
    assert (corrupt(red, "brightness", 1, 0, 0)[..., 1:] == 0).all()  # hue and saturation stay


def test_zoom_by_one_is_the_identity_and_clouds_fill_the_range() -> None:
    image = photograph()
    assert np.allclose(zoomed(image, 1.0), image)
    cloud = clouds(20, 32, 2.0, np.random.default_rng(0))
    assert cloud.shape == (20, 32) and cloud.min() >= 0 and cloud.max() <= 1 and cloud.std() > 0.05


def test_an_unknown_corruption_is_named() -> None:
    with pytest.raises(RequestError, match="Did you mean 'zoom-blur'"):
        require("zoom-blurr")


@pytest.fixture
def folder(tmp_path):
    """Published files in small: two images, five severities, of which row k holds the value k."""
    np.save(tmp_path / "labels.npy", np.tile(np.array([3, 1], np.uint8), 5))
    rows = np.arange(10, dtype=np.uint8)[:, None, None, None]
    np.save(tmp_path / "fog.npy", np.broadcast_to(rows, (10, 8, 8, 3)).copy())
    return tmp_path


def test_published_images_stand_severity_by_severity(folder) -> None:
    files = Published(folder)
    files.require("fog", [0, 1], [3, 1], (3, 8, 8))
    assert files.images("fog", 1, [0, 1])[:, 0, 0, 0].tolist() == [0, 1]
    assert files.images("fog", 4, [1, 0])[:, 0, 0, 0].tolist() == [7, 6]
    assert len(files.sha256("fog")) == 64


def test_published_files_that_do_not_fit_are_refused(folder) -> None:
    files = Published(folder)
    with pytest.raises(RequestError, match="there is no file"):
        files.require("snow", [0], [3], (3, 8, 8))
    with pytest.raises(RequestError, match="image 1 has label 1 there and 2"):
        files.require("fog", [0, 1], [3, 2], (3, 8, 8))
    with pytest.raises(RequestError, match=r"expected uint8 \[10, 32, 32, 3\]"):
        files.require("fog", [0], [3], (3, 32, 32))
    with pytest.raises(RequestError, match="image 2 has label none there"):
        files.require("fog", [2], [0], (3, 8, 8))
    (folder / "labels.npy").write_bytes(b"no array")
    with pytest.raises(RequestError, match="no array of NumPy"):
        Published(folder)
    with pytest.raises(RequestError, match="there is no folder"):
        Published(folder / "nowhere")


def test_a_list_of_hashes_beside_the_published_files_is_checked(folder) -> None:
    files = Published(folder)
    files.require_hash("fog", "0" * 64)  # without a list there is nothing to check
    (folder / "SHA256SUMS").write_text(f"{files.sha256('fog')}  fog.npy\n{'1' * 64} *snow.npy\n")
    files.require_hash("fog", files.sha256("fog"))
    with pytest.raises(RequestError, match="SHA256SUMS says 1111"):
        files.require_hash("snow", "0" * 64)
    with pytest.raises(RequestError, match="does not name frost.npy"):
        files.require_hash("frost", "0" * 64)
