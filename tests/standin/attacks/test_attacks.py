"""Every attack and every operation on balls: the same bits as on the CPU, and few reads by the host."""

from collections.abc import Callable

import pytest
import standin
import torch
from torch import Tensor, nn

from robustctl import attacks, geometry, losses, seeds
from robustctl.attacks import Settings
from robustctl.attacks.apgd import Schedule, apgd
from robustctl.attacks.msd import msd
from robustctl.attacks.pgd import pgd
from robustctl.oracle import Oracle
from robustctl.seeds import Purpose
from robustctl.threats import NORMS, Norm, Threat

RADII: dict[Norm, float] = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
STEPS = 10
LONG = 40
N = 6
Images = tuple[Tensor, Tensor]
Work = Callable[[Oracle, Tensor, Tensor], Tensor]


@pytest.fixture
def images() -> Images:
    """Images with pixels at the bounds of the box, and labels."""
    x = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3
    return x.clamp(0, 1), torch.arange(N)


def on_both(model: nn.Module, device: torch.device, images: Images, work: Work) -> standin.Traffic:
    """Do the work on the CPU and on the device, compare bit by bit, and say what went between host and device.

    The CPU takes the ways that are meant for accelerators; that both ways agree is tested with the geometry.
    """
    x, y = images
    with pytest.MonkeyPatch.context() as patch, Oracle(model) as oracle:
        patch.setattr(geometry, "is_host", lambda _: False)
        expected = work(oracle, x, y)
    x, y = x.to(device), y.to(device)
    with Oracle(model.to(device)) as oracle, standin.traffic() as traffic:
        found = work(oracle, x, y)
    assert found.device == device
    assert torch.equal(found.cpu(), expected)
    return traffic


def generators() -> list[torch.Generator]:
    return seeds.generators(0, Purpose.BENCH, range(N))


@pytest.mark.parametrize("norm", NORMS)
def test_projections_and_starts(norm: Norm, conv_model: nn.Module, device: torch.device, images: Images) -> None:
    eps = RADII[norm]

    def work(_: Oracle, x: Tensor, __: Tensor) -> Tensor:
        start = geometry.random_start(x, norm, eps, generators())
        outside = x + 3 * geometry.draw(x, generators(), uniform=False)
        radii = torch.linspace(0.5, 1.5, N, device=x.device) * eps
        points = [start, geometry.project(outside, x, norm, eps), geometry.project(outside, x, norm, radii)]
        share = torch.full_like(radii, 0.2)
        points += [geometry.steepest_step(outside, norm), geometry.steepest_step(outside, norm, share)]
        return torch.cat([*points, geometry.shrink_inside(outside, x, norm, eps)])

    assert on_both(conv_model, device, images, work).reads == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in attacks.names() if attacks.declared(name).run])
def test_attacks_of_evaluations(
    name: str, norm: Norm, conv_model: nn.Module, device: torch.device, images: Images
) -> None:
    attack = attacks.declared(name)
    if norm not in attack.norms:
        pytest.skip(f"{name} has no {norm}")
    threat = Threat(norm, RADII[norm], str(RADII[norm]))

    def work(oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        assert attack.run is not None
        return attack.run(oracle, x, y, threat, Settings(LONG, losses.margin, 3, generators()))

    traffic = on_both(conv_model, device, images, work)
    if name != "fab":  # the code of pyautoattack, which asks the device all the time
        assert traffic.reads <= LONG / 10 + 1, traffic  # one before the first step
        assert traffic.uploads <= 6, traffic  # before the first step


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_of_trainings_never_make_the_host_wait(
    norm: Norm, conv_model: nn.Module, device: torch.device, images: Images
) -> None:
    threat = Threat(norm, RADII[norm], str(RADII[norm]))

    def work(oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        start = geometry.random_start(x, norm, threat.eps, generators())
        return torch.cat(
            [
                apgd(oracle, x, y, threat, steps=STEPS),
                apgd(oracle, x, y, threat, steps=Schedule.larger_radii(STEPS), generator=generators()),
                pgd(oracle, x, y, threat, steps=STEPS, step_size=threat.eps / 4, start=start),
            ]
        )

    assert on_both(conv_model, device, images, work).reads == 0


def test_msd_never_makes_the_host_wait(conv_model: nn.Module, device: torch.device, images: Images) -> None:
    threats = [Threat(norm, eps, str(eps)) for norm, eps in RADII.items()]

    def work(oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        return msd(oracle, x, y, threats, step_sizes=[eps / 4 for eps in RADII.values()], steps=STEPS)

    assert on_both(conv_model, device, images, work).reads == 0
