import dataclasses
import math

import pytest
import torch

from robustctl.data import ImageData
from robustctl.intermediate.request import IntermediateRequest
from robustctl.intermediate.results import IntermediateResult
from robustctl.intermediate.summary import Measure, summarize
from robustctl.sampling.perturbation import Perturbation
from robustctl.threats import Threat

USUAL = Measure(
    clean_loss=0.1,
    clean_right=True,
    right=95,
    draws=100,
    mc=[[math.log(0.2), 0.01, 50.0, 0.0, 0.0], [math.log(0.3), 0.01, 50.0, 0.0, 0.0]],
    path=[[math.log(0.2), 0.1, 50.0, 0.02, 0.0], [math.log(0.5), 0.1, 50.0, 0.02, 0.0]],
    acceptance=0.65,
    largest=1.0,
    attack_losses=[0.8, 0.9],
    attack_right=False,
    recorded=1000,
    burn_in=500,
    samples=100,
    forwards=300,
    gradients=1650,
)


def summary(*changes: dict[str, object], **asked: object) -> IntermediateResult:
    """The result of one image for each dict, the usual one changed so."""
    measures = [dataclasses.replace(USUAL, **change) for change in changes]  # type: ignore[arg-type]
    n = len(measures)
    data = ImageData(torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64), 10, "made", "test", torch.arange(n))
    usual = IntermediateRequest(
        perturbation=Perturbation.parse("linf:0.1"),
        qs=(1.0, 100.0),
        estimator="both",
        grid="graded",
        samples=100,
        leapfrog=10,
        chains=4,
        rhos=(0.1, 0.05, 0.01),
        ball=Threat.parse("linf:0.1"),
        seed=0,
        batch_size=1,
    )
    request = dataclasses.replace(usual, **asked)  # type: ignore[arg-type]
    return summarize(measures, request, data, name="m", weights="0", seconds=1.0, device="cpu")


def flags(*changes: dict[str, object], **asked: object) -> list[str]:
    return [flag.split(":")[0] for flag in summary(*changes, **asked).flags]


def test_an_ordinary_result_has_no_flags() -> None:
    assert flags({}, {}) == []


def test_a_value_above_the_strongest_attack_is_flagged() -> None:
    assert flags({"attack_losses": [0.2, 0.3]}) == ["above the attack"]


def test_gaussian_noise_fills_no_ball_that_could_bound_it() -> None:
    gaussian = Perturbation.parse("gaussian:0.1")
    assert flags({"attack_losses": [0.2, 0.3]}, perturbation=gaussian) == []


def test_a_value_that_falls_with_q_beyond_its_error_is_flagged() -> None:
    falling = [[math.log(0.5), 0.1, 50.0, 0.0, 0.0], [math.log(0.2), 0.1, 50.0, 0.0, 0.0]]
    within = [[math.log(0.5), 0.1, 50.0, 0.0, 0.0], [math.log(0.49), 0.1, 50.0, 0.0, 0.0]]
    assert flags({"path": falling}) == ["decreasing"]
    assert flags({"path": within}) == []


def test_chains_that_hardly_move_are_flagged_and_counted() -> None:
    (flag,) = summary({"acceptance": 0.1}, {}).flags
    assert flag.startswith("acceptance: below 40% on 1 of 2 images")


def test_a_monte_carlo_mean_that_few_samples_carry_is_flagged() -> None:
    poor = [USUAL.mc[0], [math.log(0.3), 0.01, 1.2, 0.0, 0.0]]
    assert flags({"mc": poor}) == ["mc q=100"]


def test_lags_add_up_over_images_and_chain_errors_average_out() -> None:
    noisy = [USUAL.path[0], [0.0, 0.1, 50.0, 0.0, 0.0]]
    lagging = [USUAL.path[0], [0.0, 0.1, 50.0, 0.0, 0.1]]
    halves = []
    for path in (noisy, lagging):
        one = summary(*[{"path": path, "attack_losses": [9.0, 9.0]}] * 100).curve("path")[1]
        halves.append(one.ci95_sampling[1] - one.value)
    assert halves == pytest.approx([0.01, 0.1])


def test_probacc_asks_for_a_share_of_right_draws() -> None:
    result = summary({"right": 100}, {"right": 95}, {"right": 91}, {"right": 20})
    assert [one.acc for one in result.probacc] == [0.75, 0.5, 0.25]
    assert result.random.acc == pytest.approx((1 + 0.95 + 0.91 + 0.2) / 4)


def test_the_worst_case_takes_the_stronger_attack_of_each_image() -> None:
    worst = summary({"attack_losses": [0.8, 0.9]}, {"attack_losses": [1.1, 0.2]}).adversarial_loss
    assert worst is not None
    assert worst.value == pytest.approx(1.0)
    assert worst.pgd == pytest.approx(0.95)
    assert worst.apgd == pytest.approx(0.55)
    assert worst.accuracy.acc == 0


def test_a_measure_survives_the_store() -> None:
    assert Measure.from_json(USUAL.to_json()) == USUAL
