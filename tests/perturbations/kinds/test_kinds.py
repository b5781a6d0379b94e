"""What every kind of threat must hold, whoever adds one; and what is known in closed form about single kinds."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustctl import seeds
from robustctl.errors import RequestError
from robustctl.evaluation.kind_threat import judge
from robustctl.oracle import Oracle
from robustctl.perturbations import jpeg
from robustctl.perturbations.base import Effort, Limit, Task, find, names
from robustctl.perturbations.boxed import Boxed
from robustctl.perturbations.sparse import corner

BOXED = [name for name in names() if isinstance(find(name), Boxed)]
SMALL = Effort(3, 1, 6)
SHAPES = [(1, 8, 8), (3, 12, 9)]


def images(shape: tuple[int, int, int], n: int = 4) -> Tensor:
    """Random images inside the box, float64."""
    return 0.1 + 0.8 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def task(x: Tensor, budget: float, model: nn.Module | None = None, y: Tensor | None = None) -> Task:
    """A task whose images draw from generators of their own."""
    generators = seeds.generators(0, "test", range(len(x)))
    oracle = Oracle(model if model is not None else nn.Identity())
    return Task(oracle, x, torch.zeros(len(x), dtype=torch.long) if y is None else y, budget, SMALL, generators)


def usual(name: str) -> float:
    return Limit.parse(name, "digits").budget


def network(shape: tuple[int, int, int], classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(shape[0], 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * shape[1] * shape[2], classes)
        ).eval()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BOXED)
def test_without_budget_nothing_changes(name: str, shape: tuple[int, int, int]) -> None:
    kind, x = find(name), images(shape)
    assert isinstance(kind, Boxed)
    assert torch.allclose(kind.render(x, kind.start(task(x, 0.0))), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BOXED)
def test_random_parameters_are_inside_and_stay_so_with_a_larger_budget(name: str, shape: tuple[int, int, int]) -> None:
    kind, x, budget = find(name), images(shape), usual(name)
    assert isinstance(kind, Boxed)
    z = kind.start(task(x, budget))
    rendered = kind.render(x, z)
    assert rendered.shape == x.shape and rendered.min() >= 0 and rendered.max() <= 1
    assert (rendered - x).abs().amax() > 1e-3
    for larger in (budget, 2 * budget):
        assert kind.inside(x, z, larger, nn.Identity()).all()
    assert torch.equal(kind.project(z, x, budget), z) or name == "jpeg-l1"


@pytest.mark.parametrize("name", BOXED)
def test_a_parameter_just_outside_is_refused(name: str) -> None:
    kind, x, budget = find(name), images((3, 12, 9)), usual(name)
    assert isinstance(kind, Boxed)
    z = kind.start(task(x, budget))
    low, high = kind.bounds(x, budget)
    for place in (0, len(high) // 2, len(high) - 1):
        for end, outwards in ((high, 1), (low, -1)):
            beyond = z.clone()
            beyond[1, place] = end[place] + outwards * 1e-4 * max(low[place].abs(), high[place].abs(), 1e-3)
            kept = kind.inside(x, beyond, budget, nn.Identity())
            if name == "frame" and place > 0 and 0 < beyond[1, place] <= 1:
                continue  # content inside the frame's hole is not used, and not judged
            assert kept.tolist() == [True, False, True, True], (place, end[place])


@pytest.mark.parametrize("name", BOXED)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    kind, x, budget = find(name), images((3, 12, 9), 2), usual(name)
    assert isinstance(kind, Boxed)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    low, high = kind.bounds(x, budget)
    z = kind.project(low + (high - low) * 0.9 * (kind.start(task(x, budget)) - low) / (high - low + 1e-30), x, budget)
    along = (
        torch.randn(z.shape, generator=generator, dtype=torch.float64) * kind.movable(z) * (high - low).clamp(max=10)
    )
    z.requires_grad_(True)
    (grad,) = torch.autograd.grad((kind.render(x, z) * weight).sum(), z)
    step = 1e-7
    sums = [(kind.render(x, z.detach() + sign * step * along) * weight).flatten(1).sum(1) for sign in (1, -1)]
    numeric, analytic = (sums[0] - sums[1]) / (2 * step), (grad * along).sum(1)
    assert torch.allclose(numeric, analytic, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", names())
def test_attacks_stay_inside_and_do_not_depend_on_the_batch(name: str) -> None:
    kind, shape, budget = find(name), (1, 8, 8), usual(name)
    model, x = network(shape), images(shape).float()
    with torch.no_grad():
        y = model(x).argmax(1)
    for family in kind.families().values():
        with Oracle(model) as oracle:
            generators = [seeds.generators(0, "test", range(4)) for _ in range(2)]
            whole = family.run(Task(oracle, x, y, budget, SMALL, generators[0]))
            alone = [
                family.run(Task(oracle, x[i : i + 1], y[i : i + 1], budget, SMALL, generators[1][i : i + 1]))
                for i in (3, 0)
            ]
        verdicts = judge(model, kind, x, y, whole, budget)
        assert verdicts.inside.all()
        for i, one in zip((3, 0), alone, strict=True):
            assert torch.allclose(one[0], whole[i], atol=1e-4), family


@pytest.mark.parametrize("name", names())
def test_attacks_without_a_budget_leave_the_image_alone(name: str) -> None:
    kind, shape = find(name), (1, 8, 8)
    model, x = network(shape), images(shape).float()
    with torch.no_grad():
        y = model(x).argmax(1)
    for family in kind.families().values():
        with Oracle(model) as oracle:
            z = family.run(Task(oracle, x, y, 0.0, SMALL, seeds.generators(0, "test", range(4))))
        assert torch.allclose(kind.render(x.double(), z.double()), x.double(), rtol=0, atol=1e-6)
        assert not judge(model, kind, x, y, z.float(), 0.0).broken.any()


UNBOXED = [name for name in names() if name not in BOXED]


@pytest.mark.parametrize("name", UNBOXED)
def test_what_changes_the_image_is_inside_larger_budgets_and_outside_of_none(name: str) -> None:
    kind, shape, budget = find(name), (1, 8, 8), usual(name)
    model, x = network(shape), images(shape).float()
    with torch.no_grad():
        wrong = (model(x).argmax(1) + 1) % 5  # every image is broken as it is, so that searches end where they begin
        y = model(x).argmax(1)
    for family in kind.families().values():
        for labels in (y, wrong):
            with Oracle(model) as oracle:
                z = family.run(Task(oracle, x, labels, budget, SMALL, seeds.generators(0, "test", range(4)))).double()
            for larger in (budget, 2 * budget, 5 * budget):
                assert kind.inside(x.double(), z, larger, model.double()).all()
            changed = (kind.render(x.double(), z) - x.double()).abs().flatten(1).amax(1) > 1e-6
            assert not (kind.inside(x.double(), z, 0.0, model.double()) & changed).any()
            model.float()


@pytest.mark.parametrize("name", UNBOXED)
def test_renderings_of_other_kinds_have_the_gradients_of_finite_differences(name: str) -> None:
    kind, x = find(name), images((1, 8, 8), 2)
    generator = torch.Generator().manual_seed(3)
    z = torch.tensor([[7.0, 0.3, -0.4], [-11.0, 0.2, 0.6]]) if name == "rotation-translation" else x.flatten(1) + 0.01
    z = z.double().requires_grad_(True)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    along = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    (grad,) = torch.autograd.grad((kind.render(x, z) * weight).sum(), z)
    sums = [(kind.render(x, z.detach() + sign * 1e-6 * along) * weight).flatten(1).sum(1) for sign in (1, -1)]
    assert torch.allclose((sums[0] - sums[1]) / 2e-6, (grad * along).sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", names())
def test_what_a_name_stands_for_is_written_down(name: str) -> None:
    kind = find(name)
    assert kind.unit and "arXiv" in kind.source
    assert 0 < Limit.parse(name).budget <= kind.highest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("elastc:1", "Did you mean 'elastic'"),
        ("l0:2.5", "whole"),
        ("elastic:99", "at most 8"),
        ("fog:-1", "at least 0"),
        ("patch:", "not a number"),
    ],
)
def test_bad_budgets_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Limit.parse(text)


def test_threats_larger_than_the_image_are_refused() -> None:
    with pytest.raises(RequestError, match="only 8 pixels"):
        find("patch").require((1, 8, 8), 9)
    with pytest.raises(RequestError, match="nothing is left"):
        find("frame").require((1, 8, 8), 4)


def linear(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, classes)).eval()


@pytest.mark.parametrize("budget", [1, 2, 4])
def test_l0_is_exact_on_a_linear_model(budget: int) -> None:
    model, kind = linear(), find("l0")
    x = images((3, 6, 6), 24).float()
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    weight = model[1].weight.detach().view(-1, 3, 6, 6)  # type: ignore[union-attr]
    best = torch.full((len(x),), -torch.inf)
    for target in range(logits.shape[1]):
        difference = weight[target] - weight[y]
        gains = (torch.maximum(-x * difference, (1 - x) * difference)).sum(1).flatten(1).clamp(min=0)
        margin = logits[:, target] - logits.gather(1, y[:, None])[:, 0] + gains.topk(budget, dim=1).values.sum(1)
        best = torch.where(y == target, best, torch.maximum(best, margin))
    with Oracle(model) as oracle:
        z = kind.families()["corners"].run(
            Task(oracle, x, y, float(budget), SMALL, seeds.generators(0, "test", range(len(x))))
        )
    broken = judge(model, kind, x, y, z, float(budget)).broken
    assert broken.tolist() == (best > 0).tolist()
    assert 0 < broken.sum() < len(broken) or budget > 1


def test_l0_counts_pixels_and_not_channels() -> None:
    kind, x = find("l0"), images((3, 6, 6), 3)
    z = x.clone()
    z[0, :, 0, :2] = 1.0  # two pixels in three channels
    z[1, 0, 0, :3] = 1.0  # three pixels in one channel
    z[2, :, 0, 0] = 1.0 + 1e-12  # one pixel outside the box
    assert kind.inside(x, z.flatten(1), 2.0, nn.Identity()).tolist() == [True, False, False]


def test_the_best_corner_leaves_pixels_alone_that_gain_nothing() -> None:
    x = torch.tensor([[[[1.0, 0.5], [0.0, 0.25]]]])
    grad = torch.tensor([[[[2.0, 1.0], [-1.0, -4.0]]]])
    assert corner(x, grad, 3).flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert corner(x, grad, 0).equal(x)


def test_a_patch_touches_only_its_place() -> None:
    kind, x = find("patch"), images((3, 12, 9), 3)
    z = torch.cat([torch.tensor([[0.0, 0.0], [9.0, 6.0], [4.0, 2.0]]), torch.full((3, 27), 0.95)], 1).double()
    changed = (kind.render(x, z) != x).any(1)
    for row, (top, left) in enumerate(((0, 0), (9, 6), (4, 2))):
        expected = torch.zeros(12, 9, dtype=torch.bool)
        expected[top : top + 3, left : left + 3] = True
        assert torch.equal(changed[row], expected)
    assert kind.inside(x, z, 3.0, nn.Identity()).all()
    assert not kind.inside(x, z, 2.0, nn.Identity()).any()
    assert kind.inside(x, z + torch.tensor([0.5, *[0] * 28]), 3.0, nn.Identity()).tolist() == [False, False, False]


def test_a_frame_touches_only_its_width() -> None:
    kind, x = find("frame"), images((3, 12, 9), 2)
    z = torch.cat([torch.full((2, 1), 2.0), torch.full((2, 3 * 108), 0.95)], 1).double()
    changed = (kind.render(x, z) != x).any(1)
    assert not changed[:, 2:-2, 2:-2].any() and changed.sum() == 2 * (108 - 8 * 5)
    assert not kind.inside(x, z, 1.0, nn.Identity()).any()


def test_a_shift_by_whole_pixels_is_a_shift_and_a_quarter_turn_a_turn() -> None:
    kind, x = find("rotation-translation"), images((2, 7, 7), 1)
    shifted = kind.render(x, torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(shifted[..., :5], x[..., 2:], atol=1e-12) and (shifted[..., 5:] == 0).all()
    turned = kind.render(x, torch.tensor([[90.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(turned, torch.rot90(x, -1, (2, 3)), atol=1e-9) or torch.allclose(
        turned, torch.rot90(x, 1, (2, 3)), atol=1e-9
    )
    assert kind.inside(x, torch.tensor([[30.0, 0.7, 0.7]]).double(), 30.0, nn.Identity()).all()
    for beyond in ([30.001, 0, 0], [0, 0.701, 0], [0, 0, -0.701]):
        assert not kind.inside(x, torch.tensor([beyond]).double(), 30.0, nn.Identity()).any()


def test_a_coefficient_of_jpeg_is_a_cosine_of_its_step() -> None:
    z = torch.zeros(1, jpeg.count((1, 8, 8)), dtype=torch.float64)
    z[0, 0] = 1.0  # the mean of the block, in steps of 16
    assert torch.allclose(jpeg.change(z, (1, 8, 8)), torch.full((1, 1, 8, 8), 16 / 8 / 255, dtype=torch.float64))
    z[0, 0], z[0, 1] = 0.0, 1.0
    wave = 11 / math.sqrt(32) * torch.cos(math.pi * (2 * torch.arange(8) + 1) / 16).double() / 255
    assert torch.allclose(jpeg.change(z, (1, 8, 8))[0, 0], wave.expand(8, 8))


def test_perceptual_distance_is_measured_by_the_model_and_has_an_edge() -> None:
    kind, shape = find("perceptual"), (3, 12, 9)
    model, x = network(shape), images(shape, 2)
    z = (x + 0.05).clamp(0, 1)
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if kind.inside(x, z.flatten(1), middle, model)[0] else (middle, high)
    assert low > 0.01
    assert kind.inside(x, z.flatten(1), high * (1 + 1e-4), model)[0]
    assert not kind.inside(x, z.flatten(1), low * (1 - 1e-4), model)[0]
    assert kind.inside(x, x.flatten(1), 1e-6, model).all()
    with pytest.raises(RequestError, match="no layers"):
        kind.inside(x, x.flatten(1), 1.0, nn.Sequential(nn.Flatten(), nn.Linear(324, 3)))


def test_displacements_are_no_longer_after_smoothing() -> None:
    """A flow that is the same everywhere stays what it is: the smoother's rows sum to 1."""
    kind, x = find("elastic"), images((1, 16, 16), 1)
    flow = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    flow[:, 0] = 1.0
    assert torch.allclose(kind.render(x, flow.flatten(1))[..., :15], x[..., 1:], atol=1e-12)
