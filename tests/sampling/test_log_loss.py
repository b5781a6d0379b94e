import pytest
import torch

from robustctl import losses
from robustctl.errors import RequestError
from robustctl.sampling.log_loss import log_ce, log_of


def test_log_ce_is_the_log_of_the_cross_entropy() -> None:
    logits, y = torch.randn(50, 10, dtype=torch.float64) * 4, torch.randint(10, (50,))
    assert torch.allclose(log_ce(logits, y), losses.ce(logits, y).log())


@pytest.mark.parametrize("confidence", [-200.0, -20.0, -15.1, -14.9, 0.0, 20.0, 200.0])
def test_log_ce_is_exact_where_float32_cross_entropy_is_not(confidence: float) -> None:
    # Two classes: the cross-entropy is log(1 + e^confidence).
    logits = torch.tensor([[0.0, confidence]])
    exact = torch.nn.functional.softplus(torch.tensor(confidence, dtype=torch.float64)).log()
    assert log_ce(logits, torch.tensor([0])).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("confidence", [-80.0, -15.0, 0.0, 80.0])
def test_log_ce_has_a_finite_gradient(confidence: float) -> None:
    logits = torch.tensor([[0.0, confidence]], requires_grad=True)
    log_ce(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    s = torch.tensor(confidence, dtype=torch.float64)
    exact = torch.sigmoid(s) / torch.nn.functional.softplus(s)
    assert logits.grad[0, 1].item() == pytest.approx(exact.item(), rel=1e-3)


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(RequestError, match="the loss is negative"):
        log_of(losses.margin)(torch.tensor([[5.0, 0.0]]), torch.tensor([0]))


def test_a_loss_of_zero_has_a_finite_log() -> None:
    values = log_of(losses.ce)(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
    assert values.isfinite().all()


def test_the_log_of_a_loss_keeps_its_gradient_down_to_the_smallest_number() -> None:
    smallest = torch.finfo(torch.float32).tiny
    logits = torch.tensor([[0.0], [smallest], [2 * smallest], [1.0]], requires_grad=True)
    log_of(lambda logits, y: logits[:, 0])(logits, torch.zeros(4, dtype=torch.long)).sum().backward()
    assert logits.grad is not None
    expected = torch.tensor([0.0, 1 / smallest, 0.5 / smallest, 1.0])
    torch.testing.assert_close(logits.grad[:, 0], expected)
