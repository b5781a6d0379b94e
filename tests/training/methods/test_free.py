"""Free training against a restatement image by image: the perturbation is carried over replays and batches."""

from typing import Any

import torch
from torch.nn import functional as F

from robustctl.threats import Threat
from robustctl.training.methods.free import Config, Method

EPS = 0.1


def test_loss_and_perturbation_follow_the_ascent_on_the_carried_perturbation(example: Any) -> None:
    target = Method(Config(name="free", replays=3), (Threat.of("linf", "0.1"),))
    deltas = [torch.zeros_like(one) for one in example.x]
    for number in range(target.replays + 1):
        if number == target.replays:  # another batch, to which the perturbation is carried over
            example.y = (example.y + 1) % 3
        step = example.step()
        loss = target.loss(step)
        restated = torch.zeros((), dtype=torch.float64)
        moved = []
        for i, delta in enumerate(deltas):
            point = (example.x[i] + delta).clamp(0, 1).requires_grad_(True)
            own = F.cross_entropy(example.model(point[None]), example.y[i : i + 1])
            (grad,) = torch.autograd.grad(own, point, retain_graph=True)
            reached = point.detach() - example.x[i]  # what is left of the perturbation inside the box
            ahead = reached + EPS * (1.0 * (grad > 0) - 1.0 * (grad < 0))
            moved.append(torch.where(ahead > EPS, EPS, torch.where(ahead < -EPS, -EPS, ahead)))
            restated = restated + own / len(deltas)
        example.assert_same(loss, restated)
        loss = target.loss(step)  # assert_same has used the graph
        loss.backward()
        target.after_backward(step)
        deltas = moved
        torch.testing.assert_close(target.delta, torch.stack(deltas))
        example.model.zero_grad()
    assert (torch.stack(deltas).abs() < EPS).any(), "some pixels have turned round"


def test_a_pixel_at_the_edge_of_the_box_comes_back(example: Any) -> None:
    target = Method(Config(name="free", replays=3), (Threat.of("linf", "0.1"),))
    example.x = example.x.round()  # every pixel is black or white, as most of a digit's are
    target.delta = torch.where(example.x > 0.5, EPS, -EPS).to(example.x)  # everything points out of the box
    step = example.step()
    target.loss(step).backward()
    target.after_backward(step)
    point = example.x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(F.cross_entropy(example.model(point), example.y), point)
    torch.testing.assert_close(target.delta, EPS * grad.sign())
