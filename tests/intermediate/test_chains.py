import dataclasses

import pytest
import torch
from intermediate_case import request
from torch import Tensor

from robustctl.architectures import Classifier
from robustctl.intermediate.chains import Images, Kind, run_chains
from robustctl.intermediate.measure import Chains, carried_by_few
from robustctl.oracle import Oracle

REQUEST = request("linf:0.3", qs=(1.0, 30.0), estimator="all", samples=48, most_samples=48, rhos=(0.1,), ball=None)


class Slopes(torch.nn.Module):
    """Two classes; where the last pixel is bright, the logit of the wrong one climbs with the others."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 2)."""
        pixels = x.flatten(1)
        steepness = torch.where(pixels[:, -1] > 0.5, 40.0, 0.0)
        wrong = steepness * (pixels[:, :-1] - 0.5).sum(1)
        return torch.stack([torch.zeros_like(wrong), wrong], 1)


@pytest.fixture
def images() -> Images:
    """Four grey images; the loss of the second and the fourth hangs on the perturbation."""
    x = torch.full((4, 1, 3, 3), 0.4)
    x[:, 0, 2, 2] = torch.tensor([0.1, 0.9, 0.1, 0.9])
    return x, torch.zeros(4, dtype=torch.int64), [10, 11, 12, 13]


def run(images: Images, kind: Kind, **changes: object) -> list[Chains]:
    request = dataclasses.replace(REQUEST, **changes)  # type: ignore[arg-type]
    with Oracle(Classifier(Slopes(), None).eval()) as oracle:
        return run_chains(oracle, images, request, kind, None)


@pytest.mark.parametrize("kind", ["path", "ais"])
def test_only_images_that_few_samples_carry_get_more(images: Images, kind: Kind) -> None:
    short, long = run(images, kind), run(images, kind, most_samples=5 * 48)
    needy = [any(carried_by_few(kind, ess, chains.samples) for _, _, ess, _, _ in chains.numbers) for chains in short]
    assert needy == [False, True, False, True]
    for wanted, before, after in zip(needy, short, long, strict=True):
        if wanted:
            assert after.samples == pytest.approx(4 * before.samples, rel=0.15)
            assert after.recorded == 2 * (before.samples + after.samples)
            assert after.burnt > before.burnt
            assert after.largest >= before.largest
        else:
            assert after == before


@pytest.mark.parametrize("kind", ["path", "ais"])
def test_all_runs_together_stay_in_the_budget(images: Images, kind: Kind) -> None:
    for most in (48, 239, 240, 900, 21 * 48):
        for chains in run(images, kind, most_samples=most):
            assert chains.recorded / REQUEST.leapfrog <= 1.1 * most
    assert run(images, kind, most_samples=239) == run(images, kind)


def test_the_thesis_grid_is_run_once_as_published(images: Images) -> None:
    assert run(images, "path", grid="thesis", most_samples=900) == run(images, "path", grid="thesis")


@pytest.mark.parametrize("kind", ["path", "ais"])
def test_what_an_image_gets_does_not_depend_on_its_batch(images: Images, kind: Kind) -> None:
    x, y, indices = images
    together = run(images, kind, most_samples=240)
    (alone,) = run((x[3:], y[3:], indices[3:]), kind, most_samples=240)
    # Rounding differs with the size of the batch, and chains amplify it.
    assert alone.samples == together[3].samples
    assert alone.numbers[0][0] == pytest.approx(together[3].numbers[0][0], abs=0.05)
    assert alone.numbers[1][0] == pytest.approx(together[3].numbers[1][0], abs=0.05)
