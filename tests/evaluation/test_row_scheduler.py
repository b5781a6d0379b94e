"""The full batch: which targets, and what becomes of points that survive low precision narrowly."""

import pytest
import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.data import ImageData
from robustctl.evaluation.families import run_family
from robustctl.evaluation.protocols import Family
from robustctl.evaluation.row_scheduler import FamilyRun
from robustctl.oracle import Oracle
from robustctl.threats import Threat

CE = Family("apgd-ce", "ce", 1, 0, 10, False)
SMALL, TINY = Threat("linf", 0.01, "0.01"), Threat("linf", 0.001, "0.001")


class Blind(nn.Module):
    """Logits of a model whose gradient leads nowhere, as bad as a low precision can be."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.detach()) + 0 * x.sum()
        return logits


def margin_of(logit: float) -> tuple[nn.Module, ImageData]:
    """A linear model of two pixels and four classes, and an image that it gets right by ``logit`` out of 10."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 0.0], [0.0, 0.0]]))
        layer.bias.copy_(torch.tensor([7.5 + logit, 7.5, 0.0, 0.0]))
    x = torch.full((1, 1, 1, 2), 0.5)
    return model.eval(), ImageData(x, torch.tensor([0]), 4, "made", "test", torch.tensor([0]))


def attacked(logit: float, threat: Threat, precision: str) -> tuple[bool, int]:
    """Whether the only point was broken after proposals of no use, and how many gradients that took."""
    model, data = margin_of(logit)
    with Oracle(model) as oracle:
        oracle.precision, oracle.attacked = precision, Blind(model)  # type: ignore[assignment]
        (finished,) = run_family(FamilyRun(oracle, data, threat, CE, 0, 4), [0])
        assert oracle.precision == precision
        wrong = bool(losses.margin(model(finished.x_adv), data.y) > 0)
        return wrong, oracle.gradients


def test_a_point_that_survives_bf16_narrowly_is_attacked_again_in_float32() -> None:
    # The largest change of the margin within the ball is 2 x 0.01 x 5 = 0.1, of a largest logit of 10.
    assert attacked(0.07, SMALL, "bf16")[0]
    assert not attacked(0.07, SMALL, "float32")[0], "these proposals are of no use: only the second attack can succeed"


def test_a_point_that_survives_by_far_is_attacked_once() -> None:
    far, close = attacked(2.0, TINY, "bf16"), attacked(0.065, TINY, "bf16")
    assert not far[0] and not close[0], "within this ball the margin changes by no more than 0.01"
    assert close[1] == 2 * far[1]


@pytest.mark.parametrize(("restarts", "targets", "starts"), [(1, 0, 1), (3, 0, 3), (1, 3, 3), (2, 2, 4)])
def test_a_point_that_survives_meets_every_restart_and_target(restarts: int, targets: int, starts: int) -> None:
    model, data = margin_of(2.0)
    family = Family("one", "dlr_targeted" if targets else "ce", restarts, targets, 10, False)
    with Oracle(model) as oracle:
        list(run_family(FamilyRun(oracle, data, TINY, CE, 0, 4), [0]))
        one, oracle.gradients = oracle.gradients, 0
        list(run_family(FamilyRun(oracle, data, TINY, family, 0, 4), [0]))
        assert oracle.gradients == starts * one


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_point_comes_once_even_if_all_are_close(precision: str) -> None:
    model, data = margin_of(0.065)
    many = data.select([0] * 9)
    with Oracle(model) as oracle:
        oracle.precision = precision  # type: ignore[assignment]
        found = [
            position
            for one in run_family(FamilyRun(oracle, many, TINY, CE, 0, 4), range(9))
            for position in one.positions
        ]
    assert sorted(found) == list(range(9))


def test_a_tie_of_two_logits_is_not_broken_and_its_attempts_go_on() -> None:
    class Tied(nn.Module):
        """Both logits are the same at every point."""

        def forward(self, x: Tensor) -> Tensor:
            """Logits (n, 2)."""
            total = x.flatten(1).sum(1)
            return torch.stack([total, total], 1)

    data = ImageData(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), 2, "made", "test", torch.tensor([0]))
    with Oracle(Tied().eval()) as oracle:
        (_,) = run_family(FamilyRun(oracle, data, SMALL, CE, 0, 4), [0])
        assert oracle.gradients >= CE.steps


def test_a_point_that_is_wrong_by_little_without_any_attack_is_not_attacked() -> None:
    assert attacked(-0.3, SMALL, "float32") == (True, 0)
