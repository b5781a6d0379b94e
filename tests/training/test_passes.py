from typing import Any

import torch

from robustctl.recipe.schema import Augment, Phase
from robustctl.training.batches import Batches, Images
from robustctl.training.passes import Pass, Position, passes_of


def batches() -> Batches:
    return Batches(Images(torch.zeros(40, 1, 8, 8), torch.zeros(40, dtype=torch.int64)), Augment(), 0, 10)


def test_projection_puts_a_natural_pass_before_each_of_the_methods(settings_for: Any) -> None:
    settings = settings_for({"name": "at"}, projection={"beta": 0.5}, pretrain={"epochs": 2, "lr": 0.1})
    passes = [(one.kind, one.epoch, one.steps) for one in passes_of(settings, batches(), 1, 8)]
    assert passes == [
        ("pretrain", 0, 5),
        ("pretrain", 1, 5),
        ("natural", 0, 5),
        ("method", 0, 5),
        ("natural", 1, 5),
        ("method", 1, 5),
    ]


def test_replays_multiply_the_steps_of_the_method_alone(settings_for: Any) -> None:
    settings = settings_for({"name": "free", "replays": 3}, pretrain={"epochs": 1, "lr": 0.1})
    assert [one.steps for one in passes_of(settings, batches(), 3, 8)] == [5, 15, 15]


def test_phase_of_an_epoch_is_the_last_that_has_begun(settings_for: Any) -> None:
    phases = [{"at": 0, "size": 4, "batch_size": 8}, {"at": 1, "size": 8, "batch_size": 4}]
    settings = settings_for({"name": "at"}, resize=phases)
    assert [(one.size, one.steps) for one in passes_of(settings, batches(), 1, 8)] == [((8, 4), 5), ((4, 8), 10)]


def test_a_position_counts_steps_within_passes_and_is_done_only_when_no_pass_waits_to_be_finished() -> None:
    phase = Phase(at=0, size=8, batch_size=4)
    position = Position([Pass("natural", 0, 1, phase), Pass("method", 0, 2, phase), Pass("method", 1, 2, phase)])
    assert position.steps == 5 and position.is_done(0)
    position.next_step()
    assert position.pass_is_done and not position.is_done(1), "the natural pass waits"
    position.next_pass()
    assert position.is_done(1) and position.state() == [1, 0, 1]
    for _ in range(2):
        position.next_step()
    position.next_pass()
    assert position.steps_alike == 2, "two steps of the method, none of the natural pass"
    other = Position(position.passes)
    other.load_state(position.state())
    assert other.present == position.present and not other.is_done()
