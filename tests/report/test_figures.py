"""The figures of a suite in a table of methods: threats, groups and corruptions, counted from the points."""

import statistics

import pytest

from robustctl.errors import RequestError
from robustctl.report import method_formats
from robustctl.report.figures import figures, may_compare
from robustctl.report.methods import Scored, build
from robustctl.results.result_file import Accuracy, DataInfo, index_sha256
from robustctl.results.suite import Member, SuitePoints, SuiteResult, corruption_figures, group_figures

FOG, L1 = [1, 1, 0, 0], [1, 0, 1, 0]
NOISE = [[1, 1, 1, 1], [1, 0, 0, 0]]


def member(name: str, threat: str, bits: list[int]) -> Member:
    counted = Accuracy.of(bits)
    return Member(
        acc=counted.acc,
        n_correct=counted.n_correct,
        ci95=counted.ci95,
        name=name,
        threat=threat,
        unit="",
        source="",
        by={},
        evaluations=None,
        seconds=0,
    )


def suite(
    fog: list[int] = FOG, flags: tuple[str, ...] = (), effort: str = "100 steps", budget: str = "fog:128"
) -> SuiteResult:
    robust = {"fog": fog, "l1:1.4": L1}
    points = SuitePoints(
        index=[0, 1, 2, 3], label=[0] * 4, clean=[1] * 4, robust=robust, corrupted={"gaussian-noise": NOISE}
    )
    return SuiteResult(
        model="m",
        weights_sha256="0" * 64,
        data=DataInfo(source="digits", split="test", n=4, index_sha256=index_sha256("test", range(4))),
        suite="mine",
        effort=effort,
        seed=0,
        clean=Accuracy.of([1] * 4),
        members=[member("fog", budget, fog), member("l1:1.4", "l1:1.4", L1)],
        corruptions=corruption_figures(points, "made", {}),
        groups=[group_figures("both", ["fog", "l1:1.4"], points)],
        left_out=[],
        flags=list(flags),
        seconds=1,
        device="cpu",
        versions={},
        points=points,
    )


def test_a_suite_has_a_column_for_each_threat_group_and_for_its_corruptions() -> None:
    found = figures(suite())
    assert found.headings == {
        "clean": "clean",
        "fog": "fog:128",
        "l1:1.4": "l1:1.4",
        "both-union": "both: union",
        "both-mean": "both: mean",
        "corruptions": "corruptions",
    }
    means = {name: statistics.fmean(points) for name, points in found.points.items()}
    assert means == {
        "clean": 1,
        "fog": 0.5,
        "l1:1.4": 0.5,
        "both-union": 0.25,
        "both-mean": 0.5,
        "corruptions": 0.625,
    }
    assert not found.bounds


def test_a_threat_that_a_flag_names_is_a_bound_and_so_are_its_groups() -> None:
    flag = "second-opinion: in l1:1.4 1 of 8 sampled survivors fell to fab-t (1): the true figure is lower"
    assert figures(suite(flags=(flag,))).bounds == {"l1:1.4", "both-union", "both-mean"}


def test_suites_that_measured_differently_have_tables_of_their_own() -> None:
    assert may_compare(suite(), suite(fog=[0] * 4))
    assert not may_compare(suite(), suite(effort="20 steps"))
    assert not may_compare(suite(), suite(budget="fog:64"))
    made = build([Scored("a", "m", 0, suite()), Scored("b", "m", 0, suite(effort="20 steps"))])
    assert [one.title for one in made] == [
        "4 points of digits (test), suite mine, 100 steps",
        "4 points of digits (test), suite mine, 20 steps",
    ]


def test_seeds_of_a_suite_are_one_row_with_mean_and_deviation() -> None:
    seeds = [Scored("a", "m", seed, suite(fog)) for seed, fog in enumerate(([1, 1, 1, 0], [1, 0, 0, 0]))]
    (made,) = build(seeds, ["fog", "both-union"])
    assert list(made.headings) == ["fog", "both-union"]
    (row,) = made.rows
    assert row.cells["fog"].mean == 0.5
    assert row.cells["fog"].sd == pytest.approx(statistics.stdev([0.75, 0.25]))
    assert row.cells["both-union"].by_seed == (0.5, 0.25)


def test_a_column_that_no_result_has_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(RequestError, match=r"unknown column 'both'\. Did you mean 'both-mean'"):
        build([Scored("a", "m", 0, suite())], ["both"])


def test_a_groups_heading_is_words_in_latex_and_a_threats_budget_is_a_number() -> None:
    text = method_formats.latex(build([Scored("a", "m", 0, suite())]))
    assert "both: union" in text and "fog:$128$" in text and r"$\ell_1$:$1.4$" in text
