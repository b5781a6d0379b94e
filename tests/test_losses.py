import pytest
import torch

from robustctl import losses


def logits(n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n_classes)
    scores = torch.randn(6, n_classes, generator=generator, dtype=torch.float64)
    return scores, torch.randint(n_classes, (6,), generator=generator)


@pytest.mark.parametrize("n_classes", [2, 3, 4, 10, 1000])
def test_margin_is_positive_exactly_for_wrong_predictions(n_classes: int) -> None:
    scores, y = logits(n_classes)
    assert torch.equal(losses.margin(scores, y) > 0, scores.argmax(1) != y)
    assert torch.equal(losses.dlr(scores, y) > 0, scores.argmax(1) != y)


@pytest.mark.parametrize("n_classes", [4, 10])
def test_dlr_follows_its_formula_and_is_free_of_shift_and_scale(n_classes: int) -> None:
    scores, y = logits(n_classes)
    target = (y + 1) % n_classes
    for row, label, aim in zip(scores.tolist(), y.tolist(), target.tolist(), strict=True):
        z = sorted(row, reverse=True)
        other = z[1] if row[label] == z[0] else z[0]
        one = torch.tensor([row], dtype=torch.float64), torch.tensor([label])
        assert float(losses.dlr(*one)) == pytest.approx((other - row[label]) / (z[0] - z[2]))
        wanted = (row[aim] - row[label]) / (z[0] - (z[2] + z[3]) / 2)
        assert float(losses.dlr_targeted(*one, torch.tensor([aim]))) == pytest.approx(wanted)
    torch.testing.assert_close(losses.dlr(3 * scores + 5, y), losses.dlr(scores, y))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_below_four_classes_the_margin_replaces_dlr(n_classes: int) -> None:
    scores, y = logits(n_classes)
    target = (y + 1) % n_classes
    assert torch.equal(losses.dlr(scores, y), losses.margin(scores, y))
    assert torch.equal(losses.dlr_targeted(scores, y, target), losses.margin_targeted(scores, y, target))


def test_losses_of_equal_logits_are_finite_with_finite_gradients() -> None:
    scores = torch.zeros(2, 5, requires_grad=True)
    y = torch.tensor([0, 1])
    total = losses.dlr(scores, y).sum() + losses.dlr_targeted(scores, y, y + 1).sum() + losses.ce(scores, y).sum()
    total.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
