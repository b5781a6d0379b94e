"""The figures of a suite follow from its points."""

import pytest

from robustctl.results.suite import SuitePoints, corruption_figures


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
