"""The figures of a suite follow from its points."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustctl.errors import RequestError
from robustctl.results import suite
from robustctl.results.suite import SuitePoints, corruption_figures, group_figures

STORED = Path(__file__).parents[1] / "fixtures" / "results" / "suite.json"


def test_corruption_errors_are_means_over_images_severities_and_corruptions() -> None:
    points = SuitePoints(
        index=[0, 1, 2, 3],
        label=[0, 0, 0, 0],
        clean=[1, 1, 1, 0],
        robust={},
        corrupted={"fog": [[1, 1, 1, 0], [1, 0, 0, 0]], "snow": [[1, 1, 0, 0], [0, 0, 0, 0]]},
    )
    found = corruption_figures(points, "made", {})
    assert [one.mean.mean for one in found.each] == pytest.approx([0.5, 0.25])
    assert found.by_severity == pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0) / 2])
    assert found.mean.mean == pytest.approx(0.375)
    assert found.mce == pytest.approx(0.625)
    assert found.relative_mce == pytest.approx(0.625 - 0.25), "the error beyond the clean one"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda one: one["members"][0].update(name="linf:0.2"), "members: they are not those that have points"),
        (lambda one: one["members"].pop(), "members: they are not those that have points"),
        (lambda one: one["members"][0].update(acc=one["members"][0]["acc"] / 2 + 0.01), "do not follow"),
        (lambda one: one["points"]["robust"].update(made=one["points"]["clean"]), "members: they are not"),
        (lambda one: one["groups"][0]["members"].append("elastic:9"), "its members are not those that have points"),
        (lambda one: one["groups"][0]["members"].clear(), "its members are not those that have points"),
        (lambda one: one.update(corruptions=None), "corruptions: they have points and no figures"),
        (lambda one: one["points"]["corrupted"].clear(), "do not fit together|do not follow"),
        (lambda one: one["points"]["index"].pop(), "do not cover its images"),
    ],
)
def test_a_file_whose_parts_do_not_fit_together_is_refused_in_one_message(
    edit: Callable[[Any], None], words: str, tmp_path: Path
) -> None:
    content = json.loads(STORED.read_text("utf-8"))
    bits = content["points"]["clean"]
    content["points"]["corrupted"] = {"fog": [bits, [0] * len(bits)]}
    points = SuitePoints.model_validate(content["points"])
    content["corruptions"] = corruption_figures(points, "made", {}).model_dump(mode="json")
    content["groups"] = [group_figures("both", [next(iter(points.robust)), "fog"], points).model_dump(mode="json")]
    (tmp_path / "edited.json").write_text(json.dumps(content), "utf-8")
    suite.read(tmp_path / "edited.json")
    edit(content)
    (tmp_path / "edited.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(RequestError, match=words):
        suite.read(tmp_path / "edited.json")
