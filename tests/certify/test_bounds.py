"""Bounds on margins: exact where a closed form is known, never above what a point of the ball has."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl import geometry
from robustctl.architectures import build
from robustctl.certify.bounds import margin_bound, passes
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec
from robustctl.threats import NORMS, Threat


class Residual(nn.Module):
    """Everything that is affine or a ReLU: batch norm, a shortcut, a division, averages, functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first((x - 0.4) / 0.2))
        x = x + self.second(torch.relu(self.norm(x)))
        return self.last(F.avg_pool2d(x.relu(), x.shape[2]).flatten(1)) * 2.0


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().double().requires_grad_(False)


@pytest.fixture
def residual() -> nn.Module:
    torch.manual_seed(0)
    network = Residual()
    network.norm.running_mean.normal_()  # as after training
    return _frozen(network)


def _images(n: int, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _bound(network: nn.Module, x: Tensor, label: int, threat: Threat, rows: int = 64) -> float:
    return margin_bound(network, x, label, threat, rows, _images(4, *x.shape[1:])).bound


def _margin(network: nn.Module, x: Tensor, label: int) -> Tensor:
    logits = network(x)
    others = torch.arange(logits.shape[1]) != label
    margin: Tensor = (logits[:, [label]] - logits[:, others]).amin(1)
    return margin


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_network_has_its_exact_margin(linear_model: nn.Module, norm: geometry.Norm) -> None:
    network, x = _frozen(linear_model), _images(1, 1, 4, 4)
    weight = network[1].weight
    slopes = (weight[2] - weight)[torch.arange(10) != 2]
    logits = network(x)[0]
    exact = (logits[2] - logits)[torch.arange(10) != 2] + geometry.least(slopes, x.flatten(1), norm, 0.3)
    assert _bound(network, x, 2, Threat(norm, 0.3, "0.3")) == pytest.approx(float(exact.min()), rel=1e-12)


def test_one_crossing_relu_is_bounded_by_its_triangle() -> None:
    """z = x - 0.5 on [0.3, 0.9] lies in [-0.2, 0.4]; relu(z) is at most (z + 0.2) * 2/3 and at least z."""
    network = _frozen(nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)))
    for tensor, values in zip(network.parameters(), ([[1.0]], [-0.5], [[1.0], [0.0]], [0.0, 0.25]), strict=True):
        tensor.copy_(torch.tensor(values))
    x = torch.full((1, 1, 1, 1), 0.6, dtype=torch.float64)
    threat = Threat("linf", 0.3, "0.3")
    assert _bound(network, x, 0, threat) == pytest.approx(-0.2 - 0.25)  # relu(z) >= z >= -0.2
    assert _bound(network, x, 1, threat) == pytest.approx(0.25 - 0.4)  # relu(z) <= 2/3 (z + 0.2) <= 0.4


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_no_point_of_the_ball_has_a_smaller_margin(residual: nn.Module, norm: geometry.Norm, eps: float) -> None:
    x = _images(1, 1, 5, 5)
    bound = _bound(residual, x, 1, Threat(norm, eps, str(eps)))
    at = x.expand(300, -1, -1, -1)
    noise = torch.randn(at.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = geometry.project(at + noise, at, norm, eps)
    for _ in range(20):  # and downhill from there
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(_margin(residual, moved, 1).sum(), moved)
        step = slope / geometry.norm(slope, "l2").clamp_min(1e-12).view(-1, 1, 1, 1)
        moved = geometry.project(moved.detach() - eps * step / 4, at, norm, eps)
    least = float(_margin(residual, moved, 1).min())
    assert bound <= least
    if eps < 0.1:  # far from the image the lines are far from the ReLUs
        assert bound == pytest.approx(least, abs=0.05)


def test_without_a_ball_it_is_the_margin_and_it_falls_with_the_radius(residual: nn.Module) -> None:
    x = _images(1, 1, 5, 5)
    radii = [1e-9, 0.01, 0.05, 0.2, 0.5]
    found = [_bound(residual, x, 0, Threat("l2", eps, str(eps))) for eps in radii]
    assert found[0] == pytest.approx(float(_margin(residual, x, 0)), abs=1e-6)
    assert found == sorted(found, reverse=True)


def test_rows_a_pass_do_not_matter(conv_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    network, x = _frozen(build(conv_spec)), _images(1, 1, 8, 8)
    few, many = (_bound(network, x, 3, Threat("linf", 0.05, "0.05"), rows) for rows in (7, 1000))
    assert few == pytest.approx(many, rel=1e-9)
    assert passes(network, x, 10) == 2 * sum(one.numel() for one in _arguments(network, x)) + 9


def _arguments(network: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0]))
    network(x)
    return found


class Quantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:  # type: ignore[override]
        return slope


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (nn.MaxPool2d(2), "max_pool2d"),
        (nn.SiLU(), "silu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Softmax(1), "softmax"),
        (lambda x: x * x, "mul"),
        (lambda x: 1 / (x + 2), "rtruediv"),
        (lambda x: torch.where(x > 0.5, x, 0), "gt"),
        (lambda x: x if x.mean() > 0.5 else -x, "gt"),
        (lambda x: x + (x.round() - x).detach(), "round"),
        (lambda x: x + (F.relu(x) - x).detach(), "detach"),
        (Quantised.apply, "affine layers and ReLUs alone"),
    ],
)
def test_other_networks_are_refused(middle: object, message: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(middle(x)).flatten(1))  # type: ignore[operator]

    network, x = Network(), _images(1, 1, 4, 4)
    network(x.float())
    with pytest.raises(RequestError, match=message):
        _bound(_frozen(network), x, 0, Threat("linf", 0.1, "0.1"))
