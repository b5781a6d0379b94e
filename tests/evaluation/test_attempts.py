"""Attempts: which begins next, and the classes that they aim at."""

import torch

from robustctl.evaluation import attempts
from robustctl.evaluation.protocols import Family


def test_targets_are_the_most_likely_wrong_classes() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 4.0, 2.0]])
    targets = attempts.targets_of(logits, torch.tensor([0]), Family("t", "dlr_targeted", 2, 3, 1, False))
    assert targets == [[3, 3, 2, 2, 4, 4]]
    few = attempts.targets_of(logits[:, :3], torch.tensor([2]), Family("t", "dlr_targeted", 1, 9, 1, False))
    assert few == [[0, 1]]


def test_the_next_job_is_of_the_point_with_the_fewest_running_that_has_waited_longest():
    def point(running, survived=0, jobs=5):
        made = attempts.Point(0, 0, torch.zeros(1), 0, [-1] * jobs)
        made.running, made.survived = running, survived
        return made

    ready = attempts.Ready()
    idle, busy, later, alone, spent = point(0), point(2), point(0), point(1), point(0, jobs=0)
    for one in (busy, idle, later, spent):
        ready.place(one, side_by_side=True)
    ready.place(alone, side_by_side=False)
    assert ready.first() is idle
    idle.running = 3
    ready.place(idle, side_by_side=True)
    assert ready.first() is later
    ready.drop(later)
    assert ready.first() is busy, "a point that has survived nothing begins no second job"
    alone.survived = 1
    ready.place(alone, side_by_side=False)
    assert ready.first() is alone
