"""Every multi-norm method's loss against a slow restatement of its formula, written here image by image."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustctl import geometry
from robustctl.oracle import Oracle
from robustctl.recipe.outer import CrossEntropy, Hat, Mart, Score, Trades, TradesXent
from robustctl.recipe.schema import Pgd
from robustctl.threats import Threat
from robustctl.training.methods import at, avg, e_at, msd, ramp, sat
from robustctl.training.methods import max as max_method
from robustctl.training.step import Step

LINF, L2, L1 = Threat.of("linf", "0.1"), Threat.of("l2", "0.5"), Threat.of("l1", "1.5")
ALL = (LINF, L2, L1)


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    """-log softmax of one row, by its definition."""
    return -(logits[label] - torch.log(sum(torch.exp(value) for value in logits)))


def probabilities(logits: Tensor) -> list[Tensor]:
    total = sum(torch.exp(value) for value in logits)
    return [torch.exp(value) / total for value in logits]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum(a * torch.log(a / b) for a, b in zip(probabilities(p), probabilities(q), strict=True))


def gradient(example: Any, x: Tensor, label: int) -> Tensor:
    x = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(cross_entropy(example.model(x[None])[0], label), x)
    return grad


def move(point: Tensor, x: Tensor, grad: Tensor, threat: Threat, size: float) -> Tensor:
    """One step uphill and the projection, by bisection over the multiplier where there is no closed form."""
    if threat.norm == "linf":
        moved = point + size * grad.sign()
        return moved.clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
    if threat.norm == "l2":
        moved = point + size * grad / grad.norm()
    else:
        direction = torch.zeros_like(grad).flatten()
        largest = grad.flatten().abs().argmax()  # one of 25 pixels: the largest hundredth
        direction[largest] = grad.flatten()[largest].sign()
        moved = point + size * direction.view_as(grad)
    return nearest(moved, x, threat)


def nearest(moved: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The nearest point of ball and box, by bisection over the multiplier of the ball's constraint."""
    order = 2 if threat.norm == "l2" else 1

    def at(mu: float) -> Tensor:
        delta = moved - x
        shrunk = delta / (1 + mu) if order == 2 else delta.sign() * (delta.abs() - mu).clamp(min=0)
        return (x + shrunk).clamp(0, 1)

    if float((at(0.0) - x).norm(p=order)) <= threat.eps:
        return at(0.0)
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((at(middle) - x).norm(p=order)) > threat.eps else (low, middle)
    return at(high)


def attacked(example: Any, i: int, threat: Threat) -> Tensor:
    """The recipe's PGD from the clean image, one image alone."""
    point = example.x[i]
    for _ in range(3):
        grad = gradient(example, point, int(example.y[i]))
        point = move(point, example.x[i], grad, threat, 0.4 * threat.eps)
    return point


def ce_at(example: Any, point: Tensor, i: int) -> Tensor:
    return cross_entropy(example.model(point[None])[0], int(example.y[i]))


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


N = range(6)


def test_avg_is_the_mean_over_norms_and_images(example: Any) -> None:
    loss = avg.Method(avg.Config(name="avg"), ALL).loss(example.step())
    restated = mean([ce_at(example, attacked(example, i, threat), i) for threat in ALL for i in N])
    example.assert_same(loss, restated)


def test_max_takes_each_images_worst_norm(example: Any) -> None:
    loss = max_method.Method(max_method.Config(name="max"), ALL).loss(example.step())
    worst, chosen = [], []
    for i in N:
        losses = [ce_at(example, attacked(example, i, threat), i) for threat in ALL]
        chosen.append(max(range(3), key=lambda k: losses[k].item()))
        worst.append(losses[chosen[-1]])
    example.assert_same(loss, mean(worst))
    assert_shares(example, chosen)


def assert_shares(example: Any, chosen: list[int]) -> None:
    """The metrics say how many images trained on each norm's point."""
    means = example.meter.means()
    for k, threat in enumerate(ALL):
        assert means[f"share/{threat.norm}"] == pytest.approx(chosen.count(k) / len(chosen))


def test_msd_picks_the_worst_step_of_each_iteration_for_each_image(example: Any) -> None:
    loss = msd.Method(msd.Config(name="msd"), ALL).loss(example.step())
    values, chosen, last = [], [], []
    for i in N:
        point = example.x[i]
        for _ in range(3):
            grad = gradient(example, point, int(example.y[i]))
            tried = [move(point, example.x[i], grad, threat, 0.4 * threat.eps) for threat in ALL]
            best = max(range(3), key=lambda k: ce_at(example, tried[k], i).item())
            chosen.append(best)
            point = tried[best]
        last.append((best, [int(example.model(one[None]).argmax()) != int(example.y[i]) for one in tried]))
        values.append(ce_at(example, point, i))
    assert len(set(chosen)) > 1, "the example must make images choose differently"
    example.assert_same(loss, mean(values))
    assert_shares(example, [best for best, _ in last])
    for k, threat in enumerate(ALL):
        wrong = sum(errors[k] for _, errors in last) / len(last)
        assert example.meter.means()[f"robust_error/{threat.norm}"] == pytest.approx(wrong)


@pytest.mark.parametrize("method", ["sat", "e-at"])
def test_one_norm_methods_train_on_the_norm_they_draw(example: Any, method: str) -> None:
    step = example.step()
    if method == "sat":
        loss, threats = sat.Method(sat.Config(name="sat"), ALL).loss(step), ALL
    else:
        loss, threats = e_at.Method(e_at.Config(name="e-at"), (LINF, L1)).loss(step), (LINF, L1)
    drawn = next(name.removeprefix("robust_error/") for name in example.meter.means() if name.startswith("robust_e"))
    threat = next(threat for threat in threats if threat.norm == drawn)
    example.assert_same(loss, mean([ce_at(example, attacked(example, i, threat), i) for i in N]))


def drawn_shares(example: Any, monkeypatch: pytest.MonkeyPatch, make: Any) -> dict[str, float]:
    """How often each norm is attacked in the losses of 400 different steps, each of a fresh ``make()``."""
    drawn: list[str] = []

    def attack(step: Step, threat: Threat) -> Tensor:
        drawn.append(threat.norm)
        return step.x

    monkeypatch.setattr(Step, "attack", attack)
    for number in range(400):
        make().loss(example.step(number=number))
    assert len(drawn) == 400, "one attack a batch"
    return {norm: drawn.count(norm) / 400 for norm in set(drawn)}


def test_e_at_draws_each_norm_with_its_probability(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> e_at.Method:
        method = e_at.Method(e_at.Config(name="e-at"), (LINF, L1))
        method.recent = [(0, torch.tensor(0.1)), (1, torch.tensor(0.4)), (1, torch.tensor(0.0))]
        return method

    # The last batch is not counted yet: 0.1 for l_inf, 0.4 for l_1.
    assert drawn_shares(example, monkeypatch, make) == pytest.approx({"linf": 0.2, "l1": 0.8}, abs=0.05)


def test_sat_and_uniform_e_at_draw_every_norm_alike(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = drawn_shares(example, monkeypatch, lambda: sat.Method(sat.Config(name="sat"), ALL))
    assert shares == pytest.approx({"linf": 1 / 3, "l2": 1 / 3, "l1": 1 / 3}, abs=0.07)

    def make() -> e_at.Method:
        method = e_at.Method(e_at.Config(name="e-at", sampling="uniform"), (LINF, L1))
        method.recent = [(0, torch.tensor(0.0)), (1, torch.tensor(0.9)), (1, torch.tensor(0.0))]
        return method

    assert drawn_shares(example, monkeypatch, make) == pytest.approx({"linf": 0.5, "l1": 0.5}, abs=0.07)


@pytest.mark.parametrize("pairing", ["kl", "mse", "cosine"])
def test_ramp_pairs_only_what_the_source_norm_gets_right(example: Any, pairing: str) -> None:
    config = ramp.Config(name="ramp", pair=("linf", "l1"), weight=1.5, pairing=pairing)
    loss = ramp.Method(config, (LINF, L1)).loss(example.step())
    highest, pairs = [], []
    for i in N:
        q = example.model(attacked(example, i, LINF)[None])[0]
        r = example.model(attacked(example, i, L1)[None])[0]
        label = int(example.y[i])
        highest.append(max(cross_entropy(q, label), cross_entropy(r, label), key=Tensor.item))
        if int(q.argmax()) == label:
            pairs.append(pair(pairing, q, r))
    assert 0 < len(pairs) < 6, "the example must have right and wrong points"
    example.assert_same(loss, mean(highest) + 1.5 * mean(pairs))


def pair(pairing: str, q: Tensor, r: Tensor) -> Tensor:
    if pairing == "kl":
        return kl(q, r)
    p_q, p_r = probabilities(q), probabilities(r)
    if pairing == "mse":
        return sum((a - b) ** 2 for a, b in zip(p_q, p_r, strict=True)) / 2
    product = sum(a * b for a, b in zip(p_q, p_r, strict=True))
    return 1 - product / (sum(a * a for a in p_q) ** 0.5 * sum(b * b for b in p_r) ** 0.5)


def test_trades_adds_the_kl_from_clean_to_adversarial(example: Any) -> None:
    step = example.step(Trades(name="trades", beta=6.0))
    x_adv = example.x + 0.05 * torch.sign(torch.sin(torch.arange(example.x.numel()).view_as(example.x).double()))
    loss = step.mean(step.losses(x_adv.clamp(0, 1), "linf"))
    values = []
    for i in N:
        clean, adversarial = example.model(example.x[i][None])[0], example.model(x_adv[i].clamp(0, 1)[None])[0]
        values.append(cross_entropy(clean, int(example.y[i])) + 6.0 * kl(clean, adversarial))
    example.assert_same(loss, mean(values))


def test_trades_xent_attacks_the_cross_entropy_and_adds_the_kl(example: Any) -> None:
    step = example.step(TradesXent(name="trades-xent", beta=6.0))
    loss = at.Method(at.Config(name="at"), (LINF,)).loss(step)
    values = []
    for i in N:
        clean = example.model(example.x[i][None])[0]
        adversarial = example.model(attacked(example, i, LINF)[None])[0]
        values.append(cross_entropy(clean, int(example.y[i])) + 6.0 * kl(clean, adversarial))
    example.assert_same(loss, mean(values))


def attacked_by_kl(example: Any, i: int, start: Tensor, threat: Threat) -> Tensor:
    """The recipe's PGD on KL(clean || adversarial), one image alone, from ``start``."""
    clean = example.model(example.x[i][None])[0].detach()
    point = start
    for _ in range(3):
        at_point = point.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(kl(clean, example.model(at_point[None])[0]), at_point)
        point = move(point, example.x[i], grad, threat, 0.4 * threat.eps)
    return point


def test_ramp_with_trades_takes_the_higher_trades_loss_and_pairs_as_ever(example: Any) -> None:
    example.attack = Pgd(name="pgd", steps=3, step={"linf": 0.4, "l2": 0.4, "l1": 0.4}, start="random")
    config = ramp.Config(name="ramp", pair=("linf", "l1"), weight=1.5)
    trades = Trades(name="trades", beta=6.0)
    loss = ramp.Method(config, (LINF, L1)).loss(example.step(trades))
    generators = example.step(trades).generators  # q is attacked first, and r goes on with the same generators
    starts = [geometry.random_start(example.x, threat.norm, threat.eps, generators) for threat in (LINF, L1)]
    highest, pairs = [], []
    for i in N:
        clean, label = example.model(example.x[i][None])[0], int(example.y[i])
        q, r = (
            example.model(attacked_by_kl(example, i, start[i], threat)[None])[0]
            for start, threat in zip(starts, (LINF, L1), strict=True)
        )
        worse = max(kl(clean, q), kl(clean, r), key=Tensor.item)
        highest.append(cross_entropy(clean, label) + 6.0 * worse)
        if int(q.argmax()) == label:
            pairs.append(kl(q, r))
    assert 0 < len(pairs) < 6, "the example must have right and wrong points"
    example.assert_same(loss, mean(highest) + 1.5 * mean(pairs))


def test_attack_leaves_modes_gradients_and_parameters(example: Any) -> None:
    example.model.train()
    step = example.step()
    before = [parameter.clone() for parameter in example.model.parameters()]
    step.attack(LINF)
    assert example.model.training and all(module.training for module in example.model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in example.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, example.model.parameters(), strict=True))


def test_masked_mean_of_nothing_is_zero(example: Any) -> None:
    step = example.step()
    assert float(step.mean(torch.ones(6), torch.zeros(6, dtype=torch.bool))) == 0.0
    assert math.isclose(float(step.mean(torch.arange(6.0), torch.arange(6) < 2)), 0.5)


def test_choices_depend_on_seed_and_step_alone(example: Any) -> None:
    drawn = [example.step().choose([0.5, 0.5]) for _ in range(5)]
    assert len(set(drawn)) == 1


def test_kl_attack_maximises_the_divergence(example: Any) -> None:
    step = example.step(Trades(name="trades"))
    with Oracle(example.model) as oracle:
        target = oracle.logits(example.x).softmax(1)
    assert torch.allclose(step._target(Oracle(example.model)), target)


def test_mart_is_the_sum_of_its_two_terms(example: Any) -> None:
    step = example.step(outer=Mart(name="mart", beta=2.0))
    x_adv = step.attack(Threat.of("linf", "0.1"))
    restated = torch.zeros((), dtype=torch.float64)
    for i in range(len(example.x)):
        p, q = (example.model(x[i : i + 1]).softmax(1)[0] for x in (example.x, x_adv))
        y = int(example.y[i])
        wrong = max(q[k] for k in range(3) if k != y)
        divergence = sum(p[k] * (p[k] / q[k]).log() for k in range(3))
        restated = restated - q[y].log() - (1 - wrong).log() + 2.0 * (1 - p[y]) * divergence
    example.assert_same(step.mean(step.losses(x_adv, "linf")), restated / len(example.x))


def test_hat_adds_the_helpers_labels_at_a_multiple_of_the_perturbation(example: Any) -> None:
    torch.manual_seed(5)
    helper = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).double()
    plain = example.step(outer=Trades(name="trades", beta=2.0))
    step = example.step(outer=Hat(name="hat", helper="there", beta=2.0, gamma=0.7, reach=3.0), helper=helper)
    x_adv = example.x + 0.1 * torch.randn_like(example.x)
    labels = helper(x_adv).argmax(1)
    assert labels.unique().numel() > 1
    farther = nn.functional.cross_entropy(example.model(example.x + 3 * (x_adv - example.x)), labels)
    trades = plain.mean(plain.losses(x_adv, "linf"))
    example.assert_same(step.mean(step.losses(x_adv, "linf")), trades + 0.7 * farther)


def test_hat_attacks_as_trades_does(example: Any) -> None:
    example.attack = Pgd(name="pgd", steps=3, step={"linf": 0.4, "l2": 0.4, "l1": 0.4}, start="random")
    threat = Threat.of("linf", "0.1")
    helper = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).double()
    hat = example.step(outer=Hat(name="hat", helper="there"), helper=helper).attack(threat)
    assert torch.equal(hat, example.step(outer=Trades(name="trades")).attack(threat))


def test_score_is_trades_with_squared_distances(example: Any) -> None:
    step = example.step(outer=Score(name="score", beta=3.0, label_smoothing=0.3))
    x_adv = step.attack(Threat.of("linf", "0.1"))
    p, q = example.model(example.x).softmax(1), example.model(x_adv).softmax(1)
    labels = torch.full((6, 3), 0.1, dtype=torch.float64)
    labels[torch.arange(6), example.y] = 0.8
    restated = ((p - labels) ** 2).sum(1) + 3.0 * ((q - p) ** 2).sum(1)
    example.assert_same(step.mean(step.losses(x_adv, "linf")), restated.mean())


def test_smoothed_labels_give_their_share_to_all_classes(example: Any) -> None:
    step = example.step(outer=CrossEntropy(name="cross-entropy", label_smoothing=0.3))
    x_adv = step.attack(Threat.of("linf", "0.1"))
    log_q = example.model(x_adv).log_softmax(1)
    labels = torch.full((6, 3), 0.1, dtype=torch.float64)
    labels[torch.arange(6), example.y] = 0.8
    example.assert_same(step.mean(step.losses(x_adv, "linf")), -(labels * log_q).sum(1).mean())
