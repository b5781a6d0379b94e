import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustctl.data import decode as module
from robustctl.data.decode import as_grey, decode, gather, open_image, size_of, suffixes
from robustctl.errors import RequestError


def _png(array: np.ndarray, mode: str | None = None, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, image_format)
    return buffer.getvalue()


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _name(i: int) -> str:
    return f"row {i}"


def test_colour_pixels_come_out_as_they_went_in() -> None:
    arrays = _noise(1100, 5, 4, 3)
    x = decode([_png(array) for array in arrays], _name)
    assert x.dtype == torch.uint8
    assert torch.equal(x, torch.from_numpy(arrays).permute(0, 3, 1, 2))


def test_grey_images_have_one_channel() -> None:
    arrays = _noise(3, 5, 4)
    assert torch.equal(decode([_png(array) for array in arrays], _name), torch.from_numpy(arrays)[:, None])


def test_a_grey_image_among_coloured_ones_gets_three_equal_channels() -> None:
    grey = _noise(5, 4)
    x = decode([_png(grey), _png(_noise(5, 4, 3))], _name)
    assert torch.equal(x[0], torch.from_numpy(grey).expand(3, 5, 4))


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palettes_and_opaque_layers_are_read_as_colour(mode: str) -> None:
    flat = np.full((4, 4, 3), 255, dtype=np.uint8)
    assert torch.equal(decode([_png(flat, mode)], _name)[0], torch.full((3, 4, 4), 255, dtype=torch.uint8))


@pytest.mark.parametrize("encoded", [b"", b"not an image", None])
def test_a_damaged_image_is_named(encoded: bytes | None) -> None:
    good = _png(_noise(32, 32, 3))
    damaged = good[: len(good) // 2] if encoded is None else encoded
    with pytest.raises(RequestError, match="cannot decode row 1"):
        decode([good, damaged, good], _name)


def test_a_truncated_jpeg_is_named() -> None:
    good = _png(_noise(32, 32, 3), image_format="JPEG")
    with pytest.raises(RequestError, match="cannot decode row 0.*truncated"):
        decode([good[:-300]], _name)


def test_images_of_unequal_size_are_named() -> None:
    with pytest.raises(RequestError, match="row 2 is 6x4, but row 0 is 5x4"):
        decode([_png(_noise(5, 4)), _png(_noise(5, 4)), _png(_noise(6, 4))], _name)


def test_sixteen_bit_images_are_refused_rather_than_clipped() -> None:
    deep = np.full((4, 4), 40_000, dtype=np.uint16)
    with pytest.raises(RequestError, match="row 0.*mode is I"):
        decode([_png(deep)], _name)


@pytest.mark.parametrize("image_format", ["BMP", "GIF", "PPM", "TIFF", "WEBP", "TGA", "JPEG2000", "ICO"])
def test_every_format_of_pillow_is_read(image_format: str) -> None:
    grey = np.repeat(_noise(16, 16, 1), 3, axis=2)
    encoded = io.BytesIO()
    Image.fromarray(grey).save(encoded, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    assert torch.equal(decode([encoded.getvalue()], _name)[0], torch.from_numpy(grey).permute(2, 0, 1))


def test_what_pillow_gives_to_other_programs_is_refused() -> None:
    with pytest.raises(RequestError, match="row 0.*in no image format that is read"):
        decode([_png(_noise(4, 4, 3), image_format="EPS")], _name)
    assert ".eps" not in suffixes() and {".webp", ".bmp", ".gif", ".tif", ".ppm", ".jpeg"} <= suffixes()


def test_equal_channels_are_grey_and_others_are_not() -> None:
    grey = Image.fromarray(_noise(5, 4))
    found = as_grey(grey.convert("RGB"))
    assert found is not None and found.tobytes() == grey.tobytes() and as_grey(grey) is grey
    assert as_grey(Image.fromarray(_noise(5, 4, 3))) is None


def test_cmyk_is_read_as_colour_as_pillow_converts_it() -> None:
    flat = np.full((8, 8, 3), (250, 120, 30), dtype=np.uint8)
    x = decode([_png(flat, "CMYK", "JPEG")], _name)
    assert (x[0].flatten(1).float().mean(1) - torch.tensor([250.0, 120.0, 30.0])).abs().max() < 6


def test_a_png_called_jpeg_is_what_it_is() -> None:
    array = _noise(5, 4, 3)
    assert torch.equal(decode([_png(array)], lambda i: "a.JPEG")[0], torch.from_numpy(array).permute(2, 0, 1))


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    large = _png(_noise(26, 40))
    for read in (open_image, size_of):
        with pytest.raises(RequestError, match="cannot decode row 3: it has 40x26 pixels; at most 1,000 are read"):
            read(large, "row 3")


def test_the_size_is_told_without_decoding() -> None:
    good = _png(_noise(32, 20, 3), image_format="JPEG")
    assert size_of(good[:-300], "truncated") == (3, 32, 20)
    assert size_of(_png(_noise(5, 4)), "grey") == (1, 5, 4)
    with pytest.raises(RequestError, match="cannot decode row 0: it is in no image format"):
        size_of(b"", "row 0")


def test_grey_becomes_colour_where_that_is_asked() -> None:
    assert open_image(_png(_noise(5, 4)), "x", colour=True).mode == "RGB"


def test_gathered_images_are_in_order_and_the_first_fault_is_raised() -> None:
    arrays = _noise(11, 5, 4, 3)
    x = gather(11, (3, 5, 4), lambda i: open_image(_png(arrays[i]), str(i)))
    assert torch.equal(x, torch.from_numpy(arrays).permute(0, 3, 1, 2)) and x.is_contiguous()
    with pytest.raises(RequestError, match="cannot decode 2:"):
        gather(11, (3, 5, 4), lambda i: open_image(b"" if i in (2, 9) else _png(arrays[i]), str(i)))
    assert gather(0, (3, 5, 4), lambda i: open_image(b"", "never")).shape == (0, 3, 5, 4)
