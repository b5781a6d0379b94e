import torch

from robustctl.data.augment import cutout, mixup, random_crop, random_flip


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


def test_cutout_blanks_at_most_one_square() -> None:
    x = cutout(torch.ones(200, 3, 8, 8), 4, torch.Generator().manual_seed(0))
    blank = (x == 0).all(1)
    assert int(blank.sum((1, 2)).min()) >= 4 and int(blank.sum((1, 2)).max()) == 16
    assert torch.equal(blank, blank.any(2)[:, :, None] & blank.any(1)[:, None, :]), "rows times columns: a rectangle"


def test_mixup_mixes_images_and_labels_by_the_same_weight() -> None:
    x = torch.eye(6).view(6, 1, 1, 6)
    mixed, soft = mixup(x, torch.arange(6), 6, 1.4, torch.Generator().manual_seed(0))
    assert torch.allclose(mixed.view(6, 6), soft) and torch.allclose(soft.sum(1), torch.ones(6))


def test_mixup_weight_has_the_variance_of_beta() -> None:
    weights = []
    for seed in range(400):
        _, soft = mixup(torch.zeros(2, 1, 1, 1), torch.arange(2), 2, 0.4, torch.Generator().manual_seed(seed))
        weights.append(float(soft[0, 0]))
    different = torch.tensor([w for w in weights if w < 1])  # where an image was mixed with itself the label stays
    assert abs(float(different.mean()) - 0.5) < 0.1
    assert abs(float(different.var()) - 1 / (4 * (2 * 0.4 + 1))) < 0.04
