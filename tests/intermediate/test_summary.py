import dataclasses
import math
from typing import Any

import pytest
import torch
from intermediate_case import request

from robustctl.data import ImageData
from robustctl.intermediate.measure import Chains, Measure
from robustctl.intermediate.results import IntermediateResult
from robustctl.intermediate.summary import summarize
from robustctl.sampling.perturbation import Perturbation


def chains(*numbers: list[float], **changes: Any) -> Chains:
    """Chains that gave these numbers, one list for each q."""
    usual: dict[str, Any] = {"samples": 100, "acceptance": 0.65, "largest": 0.0, "recorded": 1000, "burnt": 500}
    return Chains(list(numbers), **usual | changes)


LOW, HIGH = [math.log(0.2), 0.1, 50.0, 0.02, 0.0], [math.log(0.5), 0.1, 50.0, 0.02, 0.0]
USUAL = Measure(
    clean_loss=0.1,
    clean_right=True,
    right=95,
    draws=100,
    mc=[[math.log(0.2), 0.01, 50.0, 0.0, 0.0], [math.log(0.3), 0.01, 50.0, 0.0, 0.0]],
    path=chains(LOW, HIGH),
    ais=None,
    largest=1.0,
    attack_losses=[0.8, 0.9],
    attack_right=False,
    attacks=150,
    forwards=300,
)


def summary(*changes: dict[str, object], **asked: object) -> IntermediateResult:
    """The result of one image for each dict, the usual one changed so."""
    measures = [dataclasses.replace(USUAL, **change) for change in changes]  # type: ignore[arg-type]
    n = len(measures)
    data = ImageData(torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64), 10, "made", "test", torch.arange(n))
    usual: dict[str, object] = {
        "qs": (1.0, 100.0),
        "samples": 100,
        "most_samples": 100,
        "leapfrog": 10,
        "rhos": (0.1, 0.05, 0.01),
        "batch_size": 1,
    }
    return summarize(measures, request(**usual | asked), data, name="m", weights="0", seconds=1.0, device="cpu")


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
    falling = chains([math.log(0.5), 0.1, 50.0, 0.0, 0.0], [math.log(0.2), 0.1, 50.0, 0.0, 0.0])
    within = chains([math.log(0.5), 0.1, 50.0, 0.0, 0.0], [math.log(0.49), 0.1, 50.0, 0.0, 0.0])
    assert flags({"path": falling}) == ["decreasing"]
    assert flags({"path": within}) == []


def test_chains_that_hardly_move_are_flagged_and_counted() -> None:
    (flag,) = summary({"path": chains(LOW, HIGH, acceptance=0.1)}, {}).flags
    assert flag.startswith("acceptance: below 40% on 1 of 2 images")


def test_a_monte_carlo_mean_that_few_samples_carry_is_flagged() -> None:
    poor = [USUAL.mc[0], [math.log(0.3), 0.01, 1.2, 0.0, 0.0]]
    assert flags({"mc": poor}) == ["mc q=100"]


def test_an_image_that_few_samples_carry_is_flagged_though_the_median_is_fine() -> None:
    poor = chains(LOW, [*HIGH[:2], 5.0, *HIGH[3:]])
    (flag,) = summary({}, {}, {}, {"path": poor}).flags
    assert flag.startswith("path q=100: on 1 of 4 images too few samples carry the value (median image: 50 of 100)")


def test_importance_weights_that_half_of_the_chains_carry_are_enough() -> None:
    few, enough = (
        chains(LOW, [*HIGH[:2], 49.0, *HIGH[3:]]),
        chains(*[[*row[:2], 50.0, *row[3:]] for row in (LOW, HIGH)]),
    )
    assert flags({"ais": enough}, estimator="all") == []
    assert flags({"ais": few}, estimator="all") == ["ais q=100"]


def test_path_sampling_below_importance_sampling_is_flagged_as_too_low() -> None:
    def higher(by: float) -> Chains:
        return chains(*[[row[0] + by, 0.1, 100.0, 0.0, 0.0] for row in (LOW, HIGH)])

    assert flags({"ais": higher(0.02)}, estimator="all") == []
    assert flags({"ais": higher(0.2)}, estimator="all") == ["too low", "too low"]
    # Within its own wide interval, and still below what is certain.
    wide = chains(*[[row[0], 1.0, 50.0, 0.0, 0.0] for row in (LOW, HIGH)])
    certain = math.log(20) / 100
    assert flags({"path": wide, "ais": higher(1.1 * certain)}, estimator="all") == ["too low"]
    assert flags({"path": wide, "ais": higher(0.9 * certain)}, estimator="all") == []


def test_the_bound_holds_for_all_images_at_once() -> None:
    carried = chains(*[[*row[:2], 100.0, *row[3:]] for row in (LOW, HIGH)])
    (one,) = [one for one in summary(*[{"ais": carried}] * 5, estimator="all").curve("ais") if one.q == 100]
    assert one.bound == pytest.approx(0.5 * (20 * 5) ** (-1 / 100))


def test_lags_add_up_over_images_and_chain_errors_average_out() -> None:
    noisy = chains(LOW, [0.0, 0.1, 50.0, 0.0, 0.0])
    lagging = chains(LOW, [0.0, 0.1, 50.0, 0.0, 0.1])
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


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("clean_loss", "value"), 0.11, "clean_loss.value is 0.11"),
        (("clean_loss", "ci95", 1), 0.5, "clean_loss.ci95"),
        (("random", "acc"), 0.94, "random.acc is 0.94"),
        (("adversarial_loss", "value"), 0.95, "adversarial_loss.ci95"),
        (("adversarial_loss", "apgd"), 1.5, "one of its attacks reaches more"),
        (("adversarial_loss", "ball"), "linf:0.3", "adversarial_loss.ball"),
        (("estimates", 1, "ci95", 1), 0.9, "estimates.1.ci95"),
        (("estimates", 1, "ci95_sampling", 1), 0.21, "estimates.1.ci95"),
        (("images", "right", 0), 0.5, "random.acc"),
        (("images", "unbroken", 0), 1, "adversarial_loss.accuracy"),
        (("distribution", "eps"), 0.7, "distribution"),
    ],
)
def test_a_figure_that_does_not_follow_from_its_images_is_refused(
    path: tuple[str | int, ...], value: object, named: str
) -> None:
    content: Any = summary({}, {"clean_loss": 0.2, "right": 90}).model_dump(mode="json", by_alias=True)
    assert IntermediateResult.model_validate(content)
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ValueError, match=named):
        IntermediateResult.model_validate(content)
