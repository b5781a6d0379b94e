"""APGD's whole trajectory against a slow restatement of the papers' algorithms in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.attacks.apgd import Apgd, Schedule, apgd
from robustctl.oracle import Loss, Oracle
from robustctl.threats import NORMS, Norm, Threat

LossAndGrad = Callable[[Tensor], tuple[float, Tensor]]
EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.4, "l1": 0.4}  # around grey images the box is out of reach


def _project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """Nearest point (d,) of the ball alone."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    if norm == "l2":
        return delta * min(1.0, eps / max(float(delta.norm()), 1e-30))
    if float(delta.abs().sum()) <= eps:
        return delta
    low, high = 0.0, float(delta.abs().max())
    for _ in range(200):  # bisection of the soft threshold
        middle = (low + high) / 2
        low, high = (middle, high) if float((delta.abs() - middle).clamp(min=0).sum()) > eps else (low, middle)
    return delta.sign() * (delta.abs() - high).clamp(min=0)


def momentum_apgd(f: LossAndGrad, x: Tensor, start: Tensor, norm: Norm, eps: float, steps: int) -> list[Tensor]:
    """arXiv:2003.01690, Alg. 1 with Eq. 1 and 2: the points (d,) that are evaluated, in their order."""

    def onto(point: Tensor) -> Tensor:
        return x + _project(point - x, norm, eps)

    checkpoints, gap = [0], max(int(0.22 * steps), 1)
    while checkpoints[-1] <= steps:
        checkpoints.append(checkpoints[-1] + gap)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    points, values, grads = [start], [], []
    eta, previous, halved, best_at_check, last_check = 2 * eps, start, True, -math.inf, 0
    for k in range(steps):
        value, grad = f(points[k])
        values.append(value)
        grads.append(grad)
        best = max(range(k + 1), key=lambda i: values[i])
        here, direction = points[k], grad
        if k == 0:
            best_at_check = value
        elif k in checkpoints:
            window = k - last_check
            rises = sum(values[i] > values[i - 1] for i in range(last_check + 1, k + 1))
            halve = rises <= 0.75 * window or (not halved and values[best] <= best_at_check)
            if halve:
                eta, here, direction = eta / 2, points[best], grads[best]
            halved, best_at_check, last_check = halve, values[best], k
        unit = direction.sign() if norm == "linf" else direction / direction.norm()
        plain = onto(here + eta * unit)
        alpha = 1.0 if k == 0 else 0.75
        points.append(onto(here + alpha * (plain - here) + (1 - alpha) * (here - previous)))
        previous = here
    return points


def l1_apgd(f: LossAndGrad, x: Tensor, start: Tensor, eps: float, steps: int) -> list[Tensor]:
    """arXiv:2103.01208, Alg. 1: no momentum; a sparse step whose sparsity follows the best point's."""
    d, window = len(x), max(int(0.04 * steps), 1)
    points, values, grads = [start], [], []
    eta, share, support = eps, 0.2, float(d)
    for k in range(steps):
        value, grad = f(points[k])
        values.append(value)
        grads.append(grad)
        best = max(range(k + 1), key=lambda i: values[i])
        here, direction = points[k], grad
        if k and k % window == 0:
            now = float(((points[best] - x).abs() > 1e-5 * eps).sum())
            if now < 0.95 * support:
                eta, here, direction = eps, points[best], grads[best]
            else:
                eta = max(eta / 1.5, eps / 10)
            share, support = now / d / 1.5, now
        kept = direction.abs() >= direction.abs().sort().values[min(max(int((1 - share) * d), 0), d - 1)]
        sparse = direction.sign() * kept
        points.append(x + _project(here + eta * sparse / sparse.abs().sum() - x, "l1", eps))
    return points


class Recording(Oracle):
    """Keeps every point that is evaluated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.points: list[Tensor] = []

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        self.points.append(x.clone())
        return super().loss_and_grad(x, y, loss, exact=exact)

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x.clone())
        return super().logits(x)


def network() -> nn.Module:
    """Smooth and wavy, so that steps both raise and lower the loss."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5))
    for module in model:
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(4)
    return model.double()


@pytest.mark.parametrize("steps", [1, 5, 20, 60, 100])
@pytest.mark.parametrize("norm", NORMS)
def test_every_point_of_the_path_is_that_of_the_slow_restatement(norm: Norm, steps: int) -> None:
    model = network()
    x = 0.4 + 0.2 * torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:] = 0.5 + (x - 0.5) * 0.1
    y = model(x).argmax(1)
    with Recording(model) as oracle:
        x_adv = apgd(oracle, x, y, Threat(norm, EPS[norm], ""), steps=steps)
    assert len(oracle.points) == steps + 1
    for row in range(len(x)):

        def f(point: Tensor, row: int = row) -> tuple[float, Tensor]:
            point = point.view(1, 1, 5, 5).detach().requires_grad_(True)
            value = losses.ce(model(point), y[row : row + 1]).sum()
            return value.item(), torch.autograd.grad(value, point)[0].flatten()

        flat, eps = x[row].flatten(), EPS[norm]
        expected = (
            l1_apgd(f, flat, flat, eps, steps) if norm == "l1" else momentum_apgd(f, flat, flat, norm, eps, steps)
        )
        for k, point in enumerate(expected):
            torch.testing.assert_close(oracle.points[k][row].flatten(), point, rtol=0, atol=1e-7, msg=f"point {k}")
        best = max(expected, key=lambda point: f(point)[0])
        torch.testing.assert_close(f(x_adv[row].flatten())[0], f(best)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("changed", "sparser"), [(94, True), (95, False), (96, False), (100, False)])
@pytest.mark.parametrize(("before", "smaller"), [(1.0, 1 / 1.5), (0.12, 0.1), (0.15, 0.1), (0.3, 0.2)])
def test_an_l1_step_starts_anew_when_the_best_point_grows_sparser_and_else_shrinks_to_a_tenth(
    changed: int, sparser: bool, before: float, smaller: float
) -> None:
    attack = Apgd(Threat("l1", 2.0, "2"), Schedule.plain(100))
    rows = attack.start(torch.zeros(1, 1, 10, 10, dtype=torch.float64), None)
    rows.x_best.flatten()[:changed] = 0.01
    rows.support, rows.step_size = torch.tensor([100.0]).double(), torch.tensor([2.0 * before]).double()
    rows.since = rows.window.clone()
    assert attack._check(rows).tolist() == [sparser]
    assert rows.step_size.item() == pytest.approx(2.0 * (1.0 if sparser else smaller))
    assert rows.support.item() == changed
    assert rows.sparsity.item() == pytest.approx(changed / 100 / 1.5)


def test_a_first_window_without_improvement_does_not_count_as_a_stall() -> None:
    attack = Apgd(Threat("l2", 1.0, "1"), Schedule.plain(100))
    rows = attack.start(torch.zeros(2, 1, 2, 2), None)
    rows.best, rows.best_at_check = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])
    rows.since, rows.rises = rows.window.clone(), rows.window.clone()  # it rose all the way, back to where it was
    assert attack._check(rows).tolist() == [False, False]
    rows.since, rows.rises = rows.window.clone(), rows.window.clone()
    assert attack._check(rows).tolist() == [True, True], "the second time it stalls"


def test_a_loss_that_stays_where_it_is_has_not_risen() -> None:
    attack = Apgd(Threat("l2", 1.0, "1"), Schedule.plain(100))
    rows = attack.start(torch.zeros(3, 1, 2, 2), None)
    grad = torch.zeros_like(rows.x_adv)
    attack._record(rows, torch.tensor([1.0, 1.0, 1.0]), grad)
    rows.step = rows.step + 1
    attack._record(rows, torch.tensor([0.5, 1.0, 1.5]), grad)
    assert rows.rises.tolist() == [0, 0, 1]
    assert rows.best.tolist() == [1.0, 1.0, 1.5]
