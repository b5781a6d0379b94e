"""Tables of methods: seeds are joined, figures follow from the points, what is unlike is kept apart."""

import csv
import io
import statistics

import pytest

from robustctl.errors import RequestError
from robustctl.report import method_formats
from robustctl.report.figures import COLUMNS
from robustctl.report.methods import MethodTable, Paper, Scored, build
from robustctl.results import union as results
from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.statistics import mcnemar, wilson
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat


def make(linf: list[int], l1: list[int], protocol: str = "standard", eps: str = "8/255", union_only: bool = False):
    n = len(linf)
    points = Points(index=list(range(n)), label=[0] * n, clean=[1] * n, robust={"linf": linf, "l1": l1})
    threats = [Threat.of("linf", eps), Threat.parse("l1:12")]
    return UnionResult(
        model="m",
        weights_sha256="0" * 64,
        data=DataInfo(source="digits", split="test", n=n, index_sha256=index_sha256("test", range(n))),
        attack=AttackInfo(name=protocol, protocol=f"families of {protocol}", seed=0, union_only=union_only),
        flags=["union-only: the norms are bounds"] * union_only,
        seconds=1,
        device="cpu",
        versions={},
        points=points,
        **results.summarize(points, threats, {}, union_only),
    )


def share(right: int, n: int = 20) -> list[int]:
    return [1] * right + [0] * (n - right)


def scored(method: str, seed: int, right: int, paper: Paper | None = None, **keys: object) -> Scored:
    return Scored(method, "start", seed, make(share(right), share(20), **keys), paper)  # type: ignore[arg-type]


SIX = [scored("a", seed, right) for seed, right in enumerate((10, 12, 14))]
SIX += [scored("b_%", seed, right) for seed, right in enumerate((4, 5, 3))]


def only(scored: list[Scored], **keys: object) -> MethodTable:
    (made,) = build(scored, COLUMNS, **keys)  # type: ignore[arg-type]
    return made


def test_a_row_has_the_mean_and_deviation_over_its_seeds() -> None:
    row = only(SIX).rows[0]
    assert row.name == "a" and row.seeds == [0, 1, 2]
    assert row.cells["linf"].mean == pytest.approx(0.6)
    assert row.cells["linf"].sd == pytest.approx(statistics.stdev([0.5, 0.6, 0.7]))
    assert row.cells["union"] == row.cells["linf"] and row.cells["average"].mean == pytest.approx(0.8)


def test_one_seed_has_no_deviation_and_the_interval_of_its_points() -> None:
    cell = only([SIX[0]]).rows[0].cells["linf"]
    assert cell.sd is None and cell.ci95 == pytest.approx(wilson(10, 20))


def test_other_radii_protocols_and_data_get_tables_of_their_own() -> None:
    many = [*SIX, scored("a", 0, 9, eps="4/255"), scored("a", 0, 9, protocol="full")]
    many += [Scored("a", "start", 0, make([1] * 5, [1] * 5))]
    made = build(many, COLUMNS)
    assert len(made) == 4 and len({one.title for one in made}) == 4
    header = next(csv.reader(io.StringIO(method_formats.as_csv(made))))
    assert len(header) == len(set(header)) and sum(name.endswith("union") for name in header) == 4


def test_the_best_is_marked_and_nothing_where_a_bound_is_above_it() -> None:
    best = [row.cells["union"].best for row in only(SIX).rows]
    assert best == [True, False]
    bounded = [scored("a", 0, 12, union_only=True), scored("b", 0, 10, union_only=True)]
    assert not any(row.cells["linf"].best for row in only(bounded).rows)
    assert any(row.cells["union"].best for row in only(bounded).rows)
    assert "<= 60.0" in method_formats.text(build(bounded, ["linf"]))


def test_single_seeds_are_compared_by_the_exact_paired_test() -> None:
    made = only([scored("a", 0, 12), scored("b", 0, 4)], against="a")
    assert made.rows[1].cells["linf"].p == mcnemar(share(12), share(4)).p_value
    assert made.rows[0].cells["linf"].p is None


def test_seeds_that_vary_more_than_methods_make_no_significance() -> None:
    noisy = [scored("a", seed, right) for seed, right in enumerate((1, 10, 19))]
    noisy += [scored("b", seed, right) for seed, right in enumerate((2, 12, 20))]
    p = only(noisy, against="a").rows[1].cells["linf"].p
    assert p is not None and p > 0.5
    clear = only(SIX, against="a").rows[1].cells["linf"].p
    assert clear is not None and clear < 0.05


def test_a_row_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(RequestError, match="there is no such row; the rows are a, b_%"):
        build(SIX, COLUMNS, against="c")


def test_two_results_of_one_seed_are_no_two_seeds() -> None:
    rows = only([SIX[0], SIX[0]]).rows
    assert [row.name for row in rows] == ["a", "a (2)"] and all(row.cells["linf"].sd is None for row in rows)


def test_each_result_may_have_its_own_row() -> None:
    assert [row.name for row in only(SIX, by="result").rows][:2] == ["a, seed 0", "a, seed 1"]


def test_latex_has_the_figures_and_escapes_names() -> None:
    text = method_formats.latex(build(SIX, ["clean", "linf"]))
    assert r"b\_\% (3 seeds)" in text and r"\mathbf{60.0} \pm 10.0" in text
    assert r"method & clean & $\ell_\infty$:$8/255$ \\" in text and text.endswith(r"\end{tabular}")


def test_a_papers_figures_stand_beside_ours_in_every_format() -> None:
    paper = Paper("RAMP Table 2", {"union": 44.6})
    made = build([scored("a", 0, 12, paper)], ["union"])
    for show in (method_formats.text, method_formats.markdown, method_formats.latex):
        assert "RAMP Table 2" in show(made) and "44.6" in show(made)
    assert "0.446" in method_formats.as_csv(made) and '"paper": 0.446' in method_formats.as_json(made)


def test_columns_that_were_not_measured_are_left_out() -> None:
    assert list(only(SIX).headings) == ["clean", "linf", "l1", "average", "union"]
    assert list(build(SIX, ["l2", "union"])[0].headings) == ["union"]
