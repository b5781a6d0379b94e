import torch

from robustctl.data.augment import random_crop, random_flip


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randint(1, 256, (64, 3, 8, 6), generator=_generator(), dtype=torch.uint8)


def test_every_crop_is_a_window_of_its_padded_image() -> None:
    padded = torch.nn.functional.pad(X, (2, 2, 2, 2))
    crops = random_crop(X, 2, _generator())
    for i in range(len(X)):
        windows = padded[i].unfold(1, 8, 1).unfold(2, 6, 1)  # (3, 5, 5, 8, 6)
        assert (windows == crops[i, :, None, None]).all(dim=(0, 3, 4)).sum() == 1


def test_all_places_occur() -> None:
    marked = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    marked[:, 0, 2, 2] = 1
    places = random_crop(marked, 1, _generator()).flatten(1).argmax(1)
    counts = places.bincount(minlength=25).view(5, 5)[1:4, 1:4]
    assert counts.sum() == 2000
    assert counts.min() > 2000 / 9 * 0.7


def test_without_padding_nothing_moves() -> None:
    assert torch.equal(random_crop(X, 0, _generator()), X)


def test_about_half_of_the_images_are_mirrored_and_none_is_changed_otherwise() -> None:
    flipped = random_flip(X, _generator())
    same = (flipped == X).flatten(1).all(1)
    mirrored = (flipped == X.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_the_same_generator_state_gives_the_same_images_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    first, second = (random_flip(random_crop(X, 2, _generator(1)), _generator(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), before)


def test_float_images_are_augmented_like_bytes() -> None:
    assert torch.equal(random_crop(X.float(), 2, _generator()), random_crop(X, 2, _generator()).float())
