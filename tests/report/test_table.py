import pytest

from robustctl.report import table
from robustctl.results import union as results
from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat


def make(model, clean, linf, l1, eps="8/255", flags=(), union_only=False) -> UnionResult:
    points = Points(index=list(range(len(clean))), label=[0] * len(clean), clean=clean, robust={"linf": linf, "l1": l1})
    threats = [Threat.of("linf", eps), Threat.parse("l1:12")]
    return UnionResult(
        model=model,
        weights_sha256="0" * 64,
        data=DataInfo(
            source="digits", split="test", n=len(clean), index_sha256=index_sha256("test", range(len(clean)))
        ),
        attack=AttackInfo(name="standard", protocol="p", seed=0, precision="float32", union_only=union_only),
        flags=[*flags, *["union-only: the norms are bounds"] * union_only],
        seconds=12.3,
        device="cpu",
        versions={},
        points=points,
        **results.summarize(points, threats, {}, union_only),
    )


@pytest.fixture
def before():
    return make("one", [1] * 10, [1] * 5 + [0] * 5, [0] * 10)


@pytest.fixture
def after():
    return make("two", [1] * 9 + [0], [1] * 5 + [0] * 5, [1] * 4 + [0] * 6)


def test_every_row_has_its_interval(before):
    text = table.before_after([("before", before)])
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert {"clean", "linf:8/255", "l1:12", "average", "union"} <= set(lines)
    assert "50.0 [23.7, 76.3]" in lines["linf:8/255"]
    assert all("[" in lines[name] for name in ("clean", "l1:12", "average", "union"))


def test_two_results_show_change_and_paired_p(before, after):
    lines = table.before_after([("before", before), ("after", after)]).splitlines()
    assert lines[0].split()[-2:] == ["change", "p"]
    union = next(line for line in lines if line.startswith("union"))
    assert union.split()[-2:] == ["+40.0", "0.125"]


def test_unlike_results_are_marked_and_get_no_change(before):
    other = make("two", [1] * 10, [1] * 10, [1] * 10, eps="4/255")
    text = table.before_after([("before", before), ("after", other)])
    assert "change" not in text
    assert "after does not compare with before: linf:8/255 against linf:4/255" in text
    assert "(linf:4/255)" in text


def test_flags_and_bounds_are_shown():
    text = table.before_after([("m", make("m", [1, 0], [1, 0], [1, 0], flags=["estimate: weak"], union_only=True))])
    assert "m: estimate: weak" in text
    assert text.count("<= ") == 3


def test_bounds_get_no_change_and_no_p():
    results = [
        (name, make(name, [1] * 10, [1] * 9 + [0], [1] * good + [0] * (10 - good), union_only=True))
        for name, good in (("a", 2), ("b", 9))
    ]
    rows = {row[0].partition(":")[0]: row[-2:] for row in table.cells(results)}
    assert rows["linf"] == rows["l1"] == rows["average"] == ["-", "-"]
    assert rows["union"] == ["+70.0", "0.016"]
    assert rows["clean"] == ["+0.0", "1.000"]


def test_markdown_has_the_same_cells_and_escapes_bars(before):
    text = table.markdown([("a|b", before)])
    assert text.splitlines()[0] == "| accuracy in % | a\\|b |"
    assert "| linf:8/255 | 50.0 [23.7, 76.3] |" in text


def varied(result: UnionResult, **attack: object) -> UnionResult:
    return result.model_copy(update={"attack": result.attack.model_copy(update=attack)})


def test_evaluations_of_one_model_are_named_by_what_differs(before):
    assert table.told_apart("after", []) == []
    assert table.told_apart("after", [before]) == ["after"]
    assert table.told_apart("after", [before, varied(before, precision="bf16")]) == ["after (float32)", "after (bf16)"]
    other = make("one", [1] * 4, [1] * 4, [0] * 4, eps="4/255")
    names = table.told_apart("after", [before, varied(other, seed=1)])
    assert names == ["after (n 10, linf:8/255 l1:12, seed 0)", "after (n 4, linf:4/255 l1:12, seed 1)"]


def test_evaluations_that_differ_in_nothing_named_are_numbered(before, after):
    assert table.told_apart("after", [before, after]) == ["after 1", "after 2"]
    three = [before, after, varied(before, seed=1)]
    assert table.told_apart("after", three) == ["after (seed 0) 1", "after (seed 0) 2", "after (seed 1)"]


def test_one_norm_has_no_union_and_no_average(before):
    points = before.points.model_copy(update={"robust": {"linf": before.points.robust["linf"]}})
    figures = results.summarize(points, [Threat.parse("linf:8/255")], {}, False)
    one = UnionResult(**{**dict(before), **figures, "points": points})
    rows = [row[0] for row in table.cells([("one", one)])]
    assert rows == ["accuracy in %", "clean", "linf:8/255"]


def test_unions_of_different_radii_stand_in_rows_of_their_own(before):
    other = make("other", [1] * 10, [1] * 10, [1] * 10, eps="4/255")
    rows = {row[0]: row[1:] for row in table.cells([("before", before), ("other", other)])}
    assert rows["union of linf:8/255, l1:12"][0].startswith("0.0") and rows["union of linf:8/255, l1:12"][1] == "-"
    assert rows["union of linf:4/255, l1:12"][0] == "-" and rows["union of linf:4/255, l1:12"][1].startswith("100.0")
    assert "union" not in rows and "average" not in rows


def test_a_table_says_that_attacks_prove_upper_bounds(before):
    assert "at most" in table.before_after([("before", before)])
