"""Random streams: one for each purpose and pair of numbers, the same wherever it is asked for."""

import itertools

from robustctl import seeds
from robustctl.seeds import Purpose


def test_streams_of_all_purposes_and_numbers_differ() -> None:
    purposes = [
        *Purpose,
        *(seeds.attack(norm, family) for norm in ("linf", "l2", "l1") for family in ("apgd-ce", "check")),
    ]
    keys = list(itertools.product((0, 1, 11), purposes, range(12), range(12)))
    drawn = {seeds.generator(*key).initial_seed() for key in keys}
    assert len(drawn) == len(keys)
    assert seeds.held_out().initial_seed() not in drawn


def test_the_norm_of_a_step_and_the_start_of_an_image_have_streams_of_their_own() -> None:
    norms = {seeds.generator(0, Purpose.TRAIN_NORM, step).initial_seed() for step in range(200)}
    starts = {one.initial_seed() for one in seeds.generators(0, Purpose.TRAIN_START, range(200), 0)}
    assert not norms & starts


def test_a_stream_is_a_function_of_its_key_alone() -> None:
    several = seeds.generators(7, Purpose.PATH, [3, 1, 4], 2)
    assert [one.initial_seed() for one in several] == [
        seeds.generator(7, Purpose.PATH, n, 2).initial_seed() for n in (3, 1, 4)
    ]
