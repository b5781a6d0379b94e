import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustctl.errors import RequestError
from robustctl.threats import Threat, hull_l2_radius, parse_eps, require_plausible, unusual


def test_a_threat_keeps_the_radius_as_written() -> None:
    threat = Threat.parse("linf:8/255")
    assert (threat.norm, threat.eps, threat.eps_text, str(threat)) == ("linf", 8 / 255, "8/255", "linf:8/255")


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("12", 12.0), ("7.65/255", 0.03), ("1e-1", 0.1), ("16/510", 8 / 255)]
)
def test_radii_are_decimals_or_fractions(text: str, value: float) -> None:
    assert parse_eps(text) == pytest.approx(value, rel=1e-15)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_written_fraction_has_the_value_of_the_division(numerator: int, denominator: int) -> None:
    assert parse_eps(f"{numerator}/{denominator}") == numerator / denominator


@pytest.mark.parametrize("text", ["0", "-1", "-8/255", "8/0", "", "/", "8/", "eight", "nan", "inf", "8/255/2", "1e999"])
def test_a_radius_that_is_no_number_above_zero_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(RequestError, match="eps") as caught:
        parse_eps(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["8/0", "0/0", "8/0.0"])
def test_a_fraction_that_divides_by_zero_is_called_so(text: str) -> None:
    with pytest.raises(RequestError, match="divides by zero"):
        Threat.parse(f"linf:{text}")


def test_an_unknown_norm_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(RequestError, match=r"Did you mean 'linf'.*l1, l2, linf"):
        Threat.of("lnf", "0.1")


def test_a_threat_without_colon_is_refused_with_an_example() -> None:
    with pytest.raises(RequestError, match="linf:8/255"):
        Threat.parse("8/255")


@pytest.mark.parametrize(
    ("eps_linf", "eps_l1", "dimension", "published"),
    [
        (4 / 255, 255, 150528, 2.0),  # ImageNet
        (0.3, 10, 784, 1.7),  # MNIST
        (0.33, 14, 784, 2.16),
    ],
)
def test_hull_radius_agrees_with_the_published_ones(
    eps_linf: float, eps_l1: float, dimension: int, published: float
) -> None:
    digits = len(str(published).split(".")[1])
    assert round(hull_l2_radius(eps_linf, eps_l1, dimension), digits) == published


def test_hull_radius_of_cifar10_is_that_of_the_theorem() -> None:
    # The paper prints 0.6178 beside the theorem, whose formula gives 12 / sqrt(382 + 0.5^2) for 12 / (8/255) = 382.5.
    assert hull_l2_radius(8 / 255, 12, 3072) == pytest.approx(12 / math.sqrt(382.25))
    assert hull_l2_radius(8 / 255, 12, 3072) == pytest.approx(0.6178, rel=0.01)


@given(st.floats(1e-3, 10), st.floats(1e-3, 10), st.integers(1, 64))
def test_hull_radius_is_the_least_support_of_the_two_balls(eps_linf: float, eps_l1: float, dimension: int) -> None:
    # The hull's support function in a unit direction w is max(eps_linf |w|_1, eps_l1 |w|_inf). For a given largest
    # entry t the l_1 norm is least when as many entries as fit equal t and one takes the rest.
    def support(t: float) -> float:
        whole = min(math.floor(1 / t**2), dimension)
        rest = max(0.0, 1 - whole * t**2) if whole < dimension else 0.0
        return max(eps_linf * (whole * t + math.sqrt(rest)), eps_l1 * t)

    low = 1 / math.sqrt(dimension)
    radius = hull_l2_radius(eps_linf, eps_l1, dimension)
    least = min(support(low + (1 - low) * i / 4000) for i in range(4001))
    assert radius <= least * (1 + 1e-9)
    assert radius >= least * (1 - 0.02)


CIFAR10 = (3, 32, 32)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("linf:8", CIFAR10, "more than half of the box .* Did you mean linf:8/255. --force goes on"),
        ("linf:0.51", CIFAR10, "more than half of the box on the scale .0,1. of pixels. --force"),
        ("linf:8", None, "Did you mean linf:8/255"),
        ("l2:128", CIFAR10, r"the diameter of the whole box \(55.4256\).* Did you mean l2:128/255"),
        ("l2:8", (1, 8, 8), r"diameter of the whole box \(8\)"),
        ("l1:3072", CIFAR10, r"diameter of the whole box \(3072\)"),
    ],
)
def test_a_radius_that_makes_no_sense_is_refused_with_the_likely_intention(
    text: str, shape: tuple[int, int, int] | None, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        require_plausible([Threat.parse("linf:0.1"), Threat.parse(text)], shape)


@pytest.mark.parametrize("text", ["linf:0.5", "linf:8/255", "l2:7.9", "l1:63.9", "l2:2"])
def test_radii_that_studies_use_pass(text: str) -> None:
    require_plausible([Threat.parse(text)], (1, 8, 8))
    require_plausible([Threat.parse("l2:1000"), Threat.parse("l1:1e6")], None)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        (
            "l1:8/255",
            CIFAR10,
            "eps: l1:8/255 moves one value of one pixel by 8 of 255 levels .* Did you mean linf:8/255",
        ),
        ("l2:0.03", CIFAR10, "moves one value of one pixel by 7.6 of 255 levels .* Did you mean linf:0.03"),
        ("l1:0.24", (3, 224, 224), "Did you mean linf:0.24"),
        ("linf:0.0001", CIFAR10, "less than a quarter of one of a pixel's 255 levels. Is it divided by 255 twice"),
        ("l2:8", CIFAR10, "moves every value by 37 of 255 levels, which is much for l2. Did you mean l2:8/255"),
        ("l1:255", CIFAR10, "moves every value by 21 of 255 levels, which is much for l1. Did you mean l1:255/255"),
        ("l1:5", (1, 8, 8), "moves every value by 20 of 255 levels"),
    ],
)
def test_a_radius_that_is_likely_to_be_a_slip_of_units_is_answered_with_the_likely_intention(
    text: str, shape: tuple[int, int, int], words: str
) -> None:
    (line,) = unusual([Threat.parse("linf:8/255"), Threat.parse(text)], shape)
    assert re.search(words, line)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("linf:0.5/255", (3, 224, 224)),  # Salman et al. 2020, as are the next two
        ("l2:0.1", (3, 224, 224)),
        ("l2:5", (3, 224, 224)),
        ("l2:36/255", CIFAR10),
        ("l1:2000/255", CIFAR10),
        ("l1:12", CIFAR10),
        ("l1:255", (3, 224, 224)),
        ("linf:0.3", (1, 28, 28)),
        ("l2:2", (1, 28, 28)),
        ("l1:14", (1, 28, 28)),
        ("l2:0.75", (1, 8, 8)),
        ("l1:3", (1, 8, 8)),
    ],
)
def test_radii_of_papers_are_no_slips(text: str, shape: tuple[int, int, int]) -> None:
    assert unusual([Threat.parse(text)], shape) == []
