import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustctl.data.resize import TRIES, centre, crop_box, crop_draws, random_part, random_parts
from robustctl.spec import Resize

SIDES = st.integers(1, 400)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def draws(seed: int, n: int = 1) -> torch.Tensor:
    return crop_draws(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_centre_is_pillows_resize_of_the_shorter_side_and_its_crop(interpolation: str) -> None:
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    image = photograph(375, 500)
    by_hand = image.resize((341, 256), filters[interpolation]).crop((58, 16, 282, 240))  # 256 * 500 / 375 = 341.3
    assert torch.equal(pixels(centre(image, Resize(side=256, interpolation=interpolation), 224)), pixels(by_hand))
    upright = photograph(500, 375)
    by_hand = upright.resize((256, 341), filters[interpolation]).crop((16, 58, 240, 282))
    assert torch.equal(pixels(centre(upright, Resize(side=256, interpolation=interpolation), 224)), pixels(by_hand))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(375, 500), (500, 333), (256, 256), (257, 1001), (120, 90), (7, 300)])
def test_centre_is_bit_for_bit_what_the_published_models_were_evaluated_with(
    size: tuple[int, int], interpolation: str
) -> None:
    from torchvision import transforms

    mode = transforms.InterpolationMode(interpolation)
    published = transforms.Compose([transforms.Resize(256, mode), transforms.CenterCrop(224), transforms.ToTensor()])
    image = photograph(*size)
    ours = pixels(centre(image, Resize(side=256, interpolation=interpolation), 224))
    assert torch.equal(ours.float() / 255, published(image))


def test_a_shorter_side_that_is_right_already_is_not_resampled() -> None:
    image = photograph(256, 300)
    assert torch.equal(pixels(centre(image, Resize(side=256), 224)), pixels(image.crop((38, 16, 262, 240))))


def test_without_a_side_the_centre_is_cut_and_what_is_missing_is_black() -> None:
    image = photograph(30, 50)
    cut = pixels(centre(image, Resize(side=None), 40))
    assert torch.equal(cut[:, 5:35], pixels(image)[:, :, 5:45])
    assert not cut[:, :5].any() and not cut[:, 35:].any()


def test_a_thin_image_is_refused_before_it_becomes_huge() -> None:
    with pytest.raises(ValueError, match="1000x1 pixels are too long and thin"):
        centre(photograph(1, 1000), Resize(side=256), 224)


def test_another_input_is_resized_in_the_same_proportion() -> None:
    assert Resize.usual(224).side == 256
    assert Resize(side=256, interpolation="bicubic").of(224, 160) == Resize(side=183, interpolation="bicubic")
    assert Resize(side=None).of(288, 144).side is None


@given(SIDES, SIDES, st.integers(0, 1000), st.floats(0.01, 1))
def test_a_random_crop_lies_in_the_image_and_has_an_allowed_area_and_ratio(
    width: int, height: int, seed: int, least: float
) -> None:
    left, top, right, bottom = crop_box(draws(seed)[0].tolist(), width, height, least)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    # Sides are rounded to whole pixels, by at most half a pixel each.
    assert (w + 0.5) / max(h - 0.5, 0.5) >= 3 / 4 or w == width
    assert max(w - 0.5, 0.5) / (h + 0.5) <= 4 / 3 or h == height
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w + 0.5) * (h + 0.5) >= least * width * height


@pytest.mark.parametrize(("width", "height", "box"), [(400, 3, (198, 0, 202, 3)), (3, 400, (0, 198, 3, 202))])
def test_where_no_crop_fits_the_middle_is_taken(width: int, height: int, box: tuple[int, ...]) -> None:
    assert crop_box([[1 - 1e-9, 0.5, 0.5, 0.5]] * TRIES, width, height, 0.08) == box


def test_areas_are_uniform_and_ratios_are_on_the_log_scale() -> None:
    boxes = [crop_box(one, 300, 300, 0.08) for one in draws(0, 4000).tolist()]
    areas = torch.tensor([(r - l) * (b - t) / 300**2 for l, t, r, b in boxes])  # noqa: E741
    logs = torch.tensor([math.log((r - l) / (b - t)) for l, t, r, b in boxes])  # noqa: E741
    assert areas.min() > 0.07 and areas.max() <= 1
    # Large areas are drawn again where they do not fit, so only the lower half is uniform: a quarter of it each.
    counts = torch.histc(areas[areas < 0.54], 4, 0.08, 0.54)
    assert (counts / counts.mean() - 1).abs().max() < 0.15
    assert abs(float(logs.mean())) < 0.01 and logs.abs().max() < math.log(4 / 3) + 0.05


def test_crops_are_a_function_of_the_seed_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    assert torch.equal(draws(3, 5), draws(3, 5)) and not torch.equal(draws(3, 5), draws(4, 5))
    assert torch.equal(draws(3, 2), draws(3, 5)[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_part_is_cut_first_and_then_resized() -> None:
    image = photograph(60, 80)
    one = draws(1)[0]
    box = crop_box(one.tolist(), 80, 60, 0.08)
    by_hand = image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
    assert torch.equal(pixels(random_part(image, one, 0.08, 32)), pixels(by_hand))


@pytest.mark.parametrize("side", [16, 100])
def test_images_in_memory_are_cropped_as_those_on_the_disk(side: int) -> None:
    images = [photograph(60, 60, seed) for seed in range(8)]
    x, some = torch.stack([pixels(image) for image in images]), draws(0, 8)
    on_disk = torch.stack([pixels(random_part(image, one, 0.2, side)) for image, one in zip(images, some, strict=True)])
    in_memory = random_parts(x, some, 0.2, side)
    assert in_memory.dtype == torch.uint8
    assert (in_memory.int() - on_disk.int()).abs().max() <= 1, "but for the rounding of 8-bit pixels"
    floats = random_parts(x.float() / 255, some, 0.2, side)
    assert (floats * 255 - on_disk).abs().max() <= 1.01
