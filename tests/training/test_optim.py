import copy

import torch
from torch import nn

from robustctl.recipe.schema import Regularize, Sgd
from robustctl.training import optim


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def test_weight_decay_spares_biases_and_normalisation_where_asked() -> None:
    net = model()
    config = Sgd(lr={"default": 0.1}, weight_decay=0.1, decay_on="weights")
    groups = optim.optimizer(net, config, 0.1, torch.device("cpu")).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(net[0].weight), id(net[3].weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_rate_reaches_every_group() -> None:
    config = Sgd(lr={"default": 0.1}, weight_decay=0.1, decay_on="weights")
    optimizer = optim.optimizer(model(), config, 0.1, torch.device("cpu"))
    optim.set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_penalty_is_on_weights_alone() -> None:
    net = model()
    weights = torch.cat([net[0].weight.flatten(), net[3].weight.flatten()])
    expected = 0.1 * weights.abs().sum() + 0.2 * weights.square().sum()
    torch.testing.assert_close(optim.penalty(net, Regularize(l1=0.1, l2=0.2)), expected)


def test_average_follows_the_recursion() -> None:
    net = model()
    average = optim.WeightAverage(net, decay=0.9)
    mean = copy.deepcopy(net).state_dict()
    for _ in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(1.0)
        average.update(net)
        for name, parameter in net.named_parameters():
            mean[name] = 0.9 * mean[name] + 0.1 * parameter
    for name, parameter in average.model.named_parameters():
        torch.testing.assert_close(parameter, mean[name])


def test_grad_norm_is_that_of_the_whole_gradient() -> None:
    net = model()
    net(torch.rand(4, 1, 3, 3)).sum().backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
    torch.testing.assert_close(optim.grad_norm(net.parameters()), flat.norm())
