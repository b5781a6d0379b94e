"""The curves of the HTML page."""

import re

import pytest

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import q_section

NASTY = '<b>&"'


def positions(text: str) -> list[tuple[float, float]]:
    """Centres of the points of the curves, in the picture's own units; y grows downwards."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)]


def changed(result: IntermediateResult, **values: float) -> IntermediateResult:
    """The result with every path-sampling estimate changed so."""
    estimates = [one.model_copy(update=values) if one.estimator == "path" else one for one in result.estimates]
    return result.model_copy(update={"estimates": estimates})


def test_a_larger_loss_is_higher_and_a_larger_q_further_right(intermediate_result) -> None:
    (left, low), (right, high) = positions(q_section.render([("m", intermediate_result)]))
    assert left < right
    assert low > high


def test_every_number_of_the_curve_stands_in_the_table(intermediate_result) -> None:
    text = q_section.render([("m", intermediate_result)])
    head, row = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    assert re.findall(r"<th>(.*?)</th>", head)[-3:] == ["q = 1", "q = 100", "strongest attack"]
    cells = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)]
    assert cells[-3:] == ["0.2 [0.1, 0.4]", "0.4 [0.2, 0.8]", "0.9 [0.5, 1.3]"]


def test_a_distribution_has_a_chart_of_its_own(intermediate_result) -> None:
    distribution = intermediate_result.distribution.model_copy(update={"text": "l2:0.5"})
    other = intermediate_result.model_copy(update={"distribution": distribution})
    text = q_section.render([("one", intermediate_result), ("two", other), ("three", other)])
    assert text.count("<svg") == 2
    assert text.count("<polyline") == 3
    assert "l2:0.5" in text


def test_labels_are_escaped(intermediate_result) -> None:
    text = q_section.render([(NASTY, intermediate_result)])
    assert NASTY not in text
    assert "&lt;b&gt;&amp;&#34;" in text


@pytest.mark.parametrize(
    "values", [{"value": 0.0, "ci95": (0.0, 0.0)}, {"ci95": (0.0, 0.5)}, {"ci95": (-0.1, 0.5)}, {"q": 1.0}]
)
def test_what_a_logarithmic_axis_does_not_hold_stays_in_the_picture(intermediate_result, values) -> None:
    text = q_section.render([("m", changed(intermediate_result, **values))])
    corners = [pair.split(",") for pair in " ".join(re.findall(r'points="([^"]+)"', text)).split()]
    places = [*positions(text), *((float(x), float(y)) for x, y in corners)]
    assert len(places) > 4
    for x, y in places:
        assert q_section.LEFT <= x <= q_section.LEFT + q_section.WIDTH
        assert q_section.TOP <= y <= q_section.BOTTOM


def test_without_an_attack_no_line_is_drawn_for_it(intermediate_result) -> None:
    assert "stroke-dasharray" in q_section.render([("m", intermediate_result)])
    result = intermediate_result.model_copy(update={"adversarial_loss": None})
    text = q_section.render([("m", result)])
    assert "stroke-dasharray" not in text
    assert text.count("<td>-</td></tr>") == 1
