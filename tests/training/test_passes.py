from typing import Any

import torch

from robustctl.recipe.schema import Augment
from robustctl.training.batches import Batches, Images
from robustctl.training.passes import passes_of


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
