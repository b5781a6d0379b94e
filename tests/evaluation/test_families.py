"""The engine: verdicts independent of the batching, every point answered once, odd numbers of classes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from robustctl import geometry, losses
from robustctl.data import ImageData
from robustctl.errors import RunError
from robustctl.evaluation import families, row_scheduler
from robustctl.evaluation.protocols import PROTOCOLS, Family
from robustctl.evaluation.row_scheduler import FamilyRun
from robustctl.oracle import Loss, Oracle
from robustctl.threats import NORMS, Norm, Threat

CE = Family("apgd-ce", "ce", 2, 0, 20, False)
TARGETED = Family("apgd-t", "dlr_targeted", 1, 9, 20, False)
L1 = Family("apgd-t", "dlr_targeted", 1, 5, 20, True)


def images(x: Tensor, y: Tensor, n_classes: int) -> ImageData:
    return ImageData(x, y, n_classes, "made", "test", torch.arange(len(y)))


def random_images(n: int, side: int, model: nn.Module, n_classes: int = 10) -> ImageData:
    """Random images, labelled by the model itself."""
    x = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return images(x, model(x).argmax(1), n_classes)


def broken(
    model: nn.Module, points: ImageData, threat: Threat, family: Family, batch_size: int, positions: Sequence[int]
) -> dict[int, bool]:
    verdicts: dict[int, bool] = {}
    inner = getattr(model, "inner", model)
    with Oracle(model) as oracle:
        for finished in families.run_family(FamilyRun(oracle, points, threat, family, 0, batch_size), positions):
            x, y = points.images(finished.positions), points.y[finished.positions]
            assert (geometry.norm(finished.x_adv.double() - x.double(), threat.norm) <= threat.eps).all()
            wrong = losses.margin(inner(finished.x_adv), y) > 0
            assert not verdicts.keys() & set(finished.positions)
            verdicts |= dict(zip(finished.positions, wrong.tolist(), strict=True))
    return verdicts


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.15), ("l1", 0.4)])
@pytest.mark.parametrize("family", [CE, TARGETED, L1], ids=["ce", "targeted", "larger-radii"])
def test_verdicts_of_a_linear_model_are_the_same_at_batch_sizes_1_7_and_all(
    linear_model: nn.Module, norm: Norm, eps: float, family: Family
) -> None:
    points = random_images(23, 4, linear_model)
    threat = Threat(norm, eps, str(eps))
    verdicts = [broken(linear_model, points, threat, family, size, range(23)) for size in (1, 7, 23, 500)]
    assert verdicts[0] == verdicts[1] == verdicts[2] == verdicts[3]
    assert sorted(verdicts[0]) == list(range(23))
    assert len(set(verdicts[0].values())) == 2, "the radius should leave some points robust and break some"


def test_verdicts_do_not_depend_on_order_or_on_the_other_points(linear_model: nn.Module) -> None:
    points = random_images(20, 4, linear_model)
    threat = Threat.of("linf", "0.05")
    everything = broken(linear_model, points, threat, CE, 6, range(20))
    some = broken(linear_model, points, threat, CE, 6, [17, 3, 11, 8])
    assert some == {position: everything[position] for position in (17, 3, 11, 8)}


@pytest.mark.parametrize("n_classes", [2, 3, 4, 10, 1000])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3], ids=["all-survive", "some", "none"])
def test_any_number_of_classes_and_survivors(n_classes: int, norm: Norm, scale: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, n_classes))
    points = random_images(4, 3, model, n_classes)
    for family in PROTOCOLS["standard"][norm]:
        short = Family(family.name, family.loss, family.restarts, family.targets, 5, family.larger_radii)
        eps = scale * {"linf": 0.05, "l2": 0.1, "l1": 0.3}[norm]
        verdicts = broken(model, points, Threat(norm, eps, str(eps)), short, 3, range(4))
        assert len(verdicts) == 4
        if scale < 1:
            assert not any(verdicts.values())


def test_points_that_are_wrong_as_they_are_come_back_unchanged_at_once(linear_model: nn.Module) -> None:
    points = random_images(5, 4, linear_model)
    wrong = images(points.x, (points.y + 1) % 10, 10)
    with Oracle(linear_model) as oracle:
        results = list(families.run_family(FamilyRun(oracle, wrong, Threat.of("l2", "0.1"), CE, 0, 2), range(5)))
        assert oracle.gradients == 0
    back = {position: x for finished in results for position, x in zip(finished.positions, finished.x_adv, strict=True)}
    assert all(torch.equal(back[position], wrong.x[position]) for position in range(5))


def test_no_points_give_no_results(linear_model: nn.Module) -> None:
    points = random_images(3, 4, linear_model)
    with Oracle(linear_model) as oracle:
        assert not list(families.run_family(FamilyRun(oracle, points, Threat.of("l2", "0.1"), CE, 0, 4), []))


def test_broken_points_leave_and_cost_nothing_more(linear_model: nn.Module) -> None:
    points = random_images(10, 4, linear_model)
    with Oracle(linear_model) as oracle:
        list(families.run_family(FamilyRun(oracle, points, Threat.of("linf", "0.9"), CE, 0, 10), range(10)))
        assert oracle.gradients <= 3 * 10, "every point breaks at its first steps"


def test_a_loss_that_is_not_finite_stops_the_run(linear_model: nn.Module) -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear_model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            return logits / 0 if torch.is_grad_enabled() else logits

    points = random_images(3, 4, linear_model)
    with Oracle(Overflow()) as oracle, pytest.raises(RunError, match="not finite"):
        list(families.run_family(FamilyRun(oracle, points, Threat.of("l2", "0.1"), CE, 0, 4), range(3)))


class Small(nn.Module):
    """Room for so many images at once; counts the passes that had none."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.failed = inner, room, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            self.failed += 1
            raise torch.OutOfMemoryError("out of memory")
        logits: Tensor = self.inner(x)
        return logits


FAB = Family("fab-t", "ce", 1, 3, 10, False, "fab")
SQUARE = Family("square", "ce", 1, 0, 60, False, "square")


@pytest.mark.parametrize("family", [TARGETED, FAB, SQUARE], ids=["apgd", "fab", "square"])
def test_running_out_of_memory_splits_the_batch_and_changes_no_verdict(linear_model: nn.Module, family: Family) -> None:
    points = random_images(12, 4, linear_model)
    threat = Threat.of("linf", "0.05")

    def verdicts(room: int) -> dict[int, bool]:
        model = Small(linear_model, room)
        found = broken(model, points, threat, family, 12, range(12))
        assert (model.failed > 0) == (room < 12)
        return found

    assert verdicts(12) == verdicts(5) == verdicts(1)
    assert len(set(verdicts(12).values())) == 2, "the radius should leave some points robust and break some"
    with pytest.raises(RunError, match="single image"):
        verdicts(0)


@pytest.mark.parametrize("family", [CE, FAB, SQUARE], ids=["apgd", "fab", "square"])
def test_a_batch_that_a_cpu_cannot_hold_goes_through_the_model_in_pieces_with_the_same_verdicts(
    linear_model: nn.Module, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    points = random_images(12, 4, linear_model)
    threat = Threat.of("linf", "0.05")
    sizes: list[int] = []

    class Watched(Small):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x)

    def verdicts() -> dict[int, bool]:
        sizes.clear()
        return broken(Watched(linear_model, 99), points, threat, family, 12, range(12))

    expected, largest = verdicts(), max(sizes)
    for module in (families, row_scheduler):
        monkeypatch.setattr(module, "fitting", lambda model, image: 5)
    assert verdicts() == expected
    assert (largest, max(sizes)) == (12, 5)


def test_the_batch_is_full_as_long_as_there_are_jobs(linear_model: nn.Module) -> None:
    points = random_images(40, 4, linear_model)
    sizes: list[int] = []

    class Watched(Oracle):
        def loss_and_grad(
            self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False
        ) -> tuple[Tensor, Tensor, Tensor]:
            sizes.append(len(x))
            return super().loss_and_grad(x, y, loss, exact=exact)

    with Watched(linear_model) as oracle:
        run = families.run_family(FamilyRun(oracle, points, Threat.of("linf", "0.05"), CE, 0, 8), range(40))
        assert sum(len(finished.positions) for finished in run) == 40
    assert set(sizes[: len(sizes) * 3 // 4]) == {8}, "no pass has a free row while points wait"
    assert sizes == sorted(sizes, reverse=True), "after them the batch only shrinks"


@pytest.mark.parametrize("attack", ["square", "fab"])
@pytest.mark.parametrize("norm", NORMS)
def test_square_and_fab_answer_every_point_inside_the_ball(conv_model: nn.Module, norm: Norm, attack: str) -> None:
    points = random_images(5, 8, conv_model)
    family = Family(attack, "ce", 1, 3, 10, False, attack)  # type: ignore[arg-type]
    eps = {"linf": 0.3, "l2": 1.5, "l1": 6.0}[norm]
    assert sorted(broken(conv_model, points, Threat(norm, eps, str(eps)), family, 3, range(5))) == list(range(5))


def test_protocol_full_is_standard_followed_by_fab_and_square() -> None:
    for norm in NORMS:
        names = [family.name for family in PROTOCOLS["full"][norm]]
        assert names == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert PROTOCOLS["full"][norm][:2] == PROTOCOLS["standard"][norm]


def test_seconds_per_batch_are_measured_on_a_full_batch(linear_model: nn.Module) -> None:
    points = random_images(3, 4, linear_model)
    with Oracle(linear_model) as oracle:
        assert families.seconds_per_batch(oracle, points, 7) > 0
        assert oracle.gradients == 14


def test_seconds_per_batch_survive_running_out_of_memory(linear_model: nn.Module) -> None:
    points = random_images(3, 4, linear_model)
    with Oracle(Small(linear_model, 2)) as oracle:
        assert families.seconds_per_batch(oracle, points, 7) > 0


@pytest.mark.parametrize("n_classes", [2, 1000])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-4, 1e3], ids=["all-survive", "none"])
@pytest.mark.parametrize("family", [FAB, SQUARE], ids=["fab", "square"])
def test_fab_and_square_meet_any_number_of_classes_and_survivors(
    n_classes: int, norm: Norm, scale: float, family: Family
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, n_classes))
    points = random_images(4, 6, model, n_classes)
    eps = scale * {"linf": 0.05, "l2": 0.1, "l1": 0.3}[norm]
    verdicts = broken(model, points, Threat(norm, eps, str(eps)), family, 3, range(4))
    assert sorted(verdicts) == list(range(4))
    assert set(verdicts.values()) == ({False} if scale < 1 else {True})
