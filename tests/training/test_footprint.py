"""What cards of usual sizes hold follows from bytes per image."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustctl.pieces import NO_LIMIT
from robustctl.processes import World
from robustctl.training.footprint import Footprint, PerImage, footprint, optimizer_state

FOUND = Footprint(fixed=10**9, kept=PerImage(10**8, 8 * 10**7), twice=PerImage(4 * 10**7, 2 * 10**7), waiting=10**6)


def test_the_precision_is_the_training_s(
    settings_for: Callable[..., Any], make_loop: Callable[..., Any], tmp_path: Path
) -> None:
    half, full = (
        make_loop(settings_for({"name": "natural"}, precision=precision), tmp_path / precision)
        for precision in ("bfloat16", "float32")
    )
    found = {loop.settings.precision: footprint(loop.parts, loop.context) for loop in (half, full)}
    assert " in bfloat16 (" in found["bfloat16"].lines(8)[0] and " in float32 (" in found["float32"].lines(8)[0]
    assert found["bfloat16"].kept.whole != found["float32"].kept.whole


TRAIN = {"threats": {"linf": "0.1", "l1": "1.5"}, "epochs": 2, "batch_size": 8}


def test_larger_cards_hold_larger_batches() -> None:
    assert [FOUND.largest_batch(size) for size in (1, 12, 24, 48, 80)] == [0, 98, 206, 422, 710]


def test_parts_of_a_batch_take_what_is_left() -> None:
    assert FOUND.rows(64, 10.8e9) == 64
    assert FOUND.rows(128, 10.8e9) == (10_800 - 1000 - 128) // 80
    assert FOUND.rows(128, 5e9, recompute=True) == 127, "whole it keeps more than one pass"
    assert FOUND.rows(128, 1.1e9) == 0
    assert FOUND.total(128, 32) == 10**9 + 128 * 10**6 + 32 * 8 * 10**7
    assert FOUND.total(128, NO_LIMIT) == FOUND.total(128, 128) == 10**9 + 128 * 10**8


def test_people_read_it_in_lines() -> None:
    asked, cards = FOUND.lines(128)
    assert asked.startswith("memory on a card: 13.8 GB for batches of 128 in float32 (1.0 GB and 100 MB per image)")
    assert "12 GB: 120 at once, whole with train.checkpoint; 24 GB: whole" in cards
    assert "2.8 GB for batches of 128, 16 at once, blocks computed twice" not in asked
    assert "1.4 GB for batches of 128, 16 at once, blocks computed twice" in FOUND.lines(128, 16, recompute=True)[0]


def test_measuring_leaves_the_training_as_it_was(
    settings_for: Callable[..., Any], make_loop: Callable[..., Any], tmp_path: Path
) -> None:
    settings = settings_for({"name": "e-at"})
    one, other = make_loop(settings, tmp_path / "one"), make_loop(settings, tmp_path / "other")
    footprint(one.parts, one.context)
    for loop in (one, other):
        loop.run(max_steps=3)
    assert all((a == b).all() for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one.monitor.meter.means() == other.monitor.meter.means()


def test_a_state_that_is_shared_out_counts_by_its_part(
    settings_for: Callable[..., Any], make_loop: Callable[..., Any], tmp_path: Path
) -> None:
    loop = make_loop(settings_for({"name": "e-at"}, train={**TRAIN, "shard": True}), tmp_path)
    state = optimizer_state(loop.parts)
    assert state == sum(parameter.nbytes for parameter in loop.model.parameters()), "SGD's momentum"
    four = replace(loop.parts, world=World(0, 4))
    assert footprint(loop.parts, loop.context).fixed - footprint(four, loop.context).fixed == state - state // 4
