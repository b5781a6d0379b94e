"""Selection and the check for overfitting against what a linear classifier has in closed form."""

import pytest
import torch
from torch import Tensor, nn

from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training import selection
from robustctl.training.batches import Images
from robustctl.training.selection import BATCH, Selector, pgd_accuracy
from robustctl.trusted_copy import Trusted, trusted_copy

N = BATCH + 44
LINF, L2 = Threat.of("linf", "0.015"), Threat.of("l2", "0.05")


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double().eval()
    with torch.no_grad():
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # a grey image lies on the boundary
    return model


@pytest.fixture
def images(linear: nn.Module) -> Images:
    """Images so far from the box that no ball reaches it, a tenth of them with the wrong label."""
    x = 0.35 + 0.3 * torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = linear(x.double()).argmax(1)
    y[::10] = 1 - y[::10]
    return Images(x, y)


def margins(linear: nn.Module, images: Images) -> Tensor:
    logits = linear(images.x.double())
    rows = torch.arange(len(images.y))
    return logits[rows, images.y] - logits[rows, 1 - images.y]


def exact(linear: nn.Module, images: Images, threat: Threat) -> Tensor:
    """Who is right everywhere in the ball: the margin falls by eps times the dual norm of the weights' difference."""
    difference = linear[1].weight[0] - linear[1].weight[1]
    return margins(linear, images) > threat.eps * difference.norm(p=1 if threat.norm == "linf" else 2)


def test_selection_measures_each_norm_and_the_union_of_a_linear_model(linear: nn.Module, images: Images) -> None:
    with torch.no_grad():
        by_norm = {threat.norm: exact(linear, images, threat) for threat in (LINF, L2)}
        clean = margins(linear, images) > 0
    found = Selector(images, (LINF, L2), 20, World()).measure(linear.float())
    assert found["clean"] == pytest.approx(clean.double().mean())
    for norm, right in by_norm.items():
        assert 0.1 < right.double().mean() < clean.double().mean() - 0.1, "the radius must matter"
        assert found[norm] == pytest.approx(right.double().mean())
    assert found["union"] == pytest.approx((by_norm["linf"] & by_norm["l2"]).double().mean())


def test_pgd_accuracy_is_the_robust_accuracy_of_a_linear_model(linear: nn.Module, images: Images) -> None:
    with torch.no_grad():
        right = exact(linear, images, LINF).double().mean()
    assert 0.1 < right < 0.8
    assert pgd_accuracy(linear.float(), images.x, images.y, LINF, 5, seed=0) == pytest.approx(right)


def test_measuring_leaves_the_model_in_training_mode_and_without_gradients(linear: nn.Module, images: Images) -> None:
    model = linear.float().train()
    before = [parameter.clone() for parameter in model.parameters()]
    Selector(images, (LINF,), 2, World()).measure(model)
    pgd_accuracy(model, images.x, images.y, LINF, 2, seed=0)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_selection_attacks_a_copy_with_the_present_weights_and_judges_as_the_model_does(monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(40, 1, 4, 4)
    images = Images(x, model.eval()(x).argmax(1))
    selector = Selector(images, (LINF,), 3, World())
    copies = []
    monkeypatch.setattr(selection, "trusted_copy", lambda *args: copies.append(trusted_copy(*args)) or copies[-1])
    for scale in (1.0, -1.0):
        with torch.no_grad():
            model[4].weight.mul_(scale), model[4].bias.mul_(scale)
        found = selector.measure(model.train())
        assert found["clean"] == float(scale > 0), "the copy follows the weights"
        assert copies[-1].copied and not any(isinstance(layer, nn.BatchNorm2d) for layer in copies[-1].network)
        with monkeypatch.context() as live:
            live.setattr(selection, "trusted_copy", lambda model, precision, images: Trusted(model, precision, False))
            assert found == selector.measure(model), "the live model has the same accuracies"
