import torch

from robustctl import seeds
from robustctl.sampling.noise import Noise
from robustctl.seeds import Purpose


def test_forks_of_many_images_have_streams_of_their_own() -> None:
    noise = Noise(seeds.generators(0, Purpose.PATH, range(300)), 2, torch.empty(0))
    forked = noise.fork()
    seen = {one.initial_seed() for one in (*noise.generators, *forked.generators, *noise.fork().generators)}
    assert len(seen) == 900


def test_rows_of_an_image_are_drawn_from_its_own_generator() -> None:
    both, alone = (Noise(seeds.generators(0, Purpose.PATH, images), 3, torch.empty(0)) for images in ([4, 9], [9]))
    assert torch.equal(both.normal(2, 2)[3:], alone.normal(2, 2))
    assert torch.equal(both.uniform(2)[3:], alone.uniform(2))
