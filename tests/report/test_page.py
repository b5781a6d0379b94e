"""The page marks what a reader must not take for a measurement."""

from robustctl.report import page, style
from robustctl.results import union as results
from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat


def make(linf: list[int], union_only: bool, flags: tuple[str, ...] = ()) -> UnionResult:
    points = Points(index=[0, 1, 2, 3], label=[0] * 4, clean=[1] * 4, robust={"linf": linf, "l1": [1, 1, 0, 0]})
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    return UnionResult(
        model="m",
        weights_sha256="0" * 64,
        data=DataInfo(source="digits", split="test", n=4, index_sha256=index_sha256("test", range(4))),
        attack=AttackInfo(name="standard", protocol="p", seed=0, union_only=union_only),
        flags=[*flags, *["union-only: the norms are bounds"] * union_only],
        seconds=1,
        device="cpu",
        versions={},
        points=points,
        **results.summarize(points, threats, {"linf": sum(linf) / 4}, union_only),
    )


def test_bounds_are_marked_in_the_chart_and_are_not_compared() -> None:
    text = page.render([("a", make([1, 1, 1, 0], True)), ("b", make([1, 1, 1, 1], True))])
    assert text.count("<title>&lt;= ") == 4, "two norms of two results"
    assert text.count(">&lt;=</text>") == 4
    assert text.count("upper bounds do not compare") == 2
    assert text.count("exact McNemar") == 1
    assert "linf &lt;= 75.0" in text


def test_measurements_carry_no_mark() -> None:
    text = page.render([("a", make([1, 1, 1, 0], False)), ("b", make([1, 1, 1, 1], False))])
    assert "&lt;= " not in text
    assert "do not compare" not in text


def test_the_table_names_each_protocol_and_marks_estimates() -> None:
    weak = make([1, 1, 1, 0], False, ("estimate: weak",))
    text = page.render([("a", make([1, 1, 1, 0], False)), ("b", weak)])
    assert text.count('<td class="words">standard</td>') == 1
    assert text.count('<td class="words">standard, estimate</td>') == 1
    assert "the true ones are at most that" in text


def test_unions_over_other_radii_are_not_drawn_in_one_group_nor_a_union_of_one_norm() -> None:
    first, second = make([1, 1, 1, 0], False), make([1, 1, 1, 0], False)
    assert 'text-anchor="end">union</text>' in page.render([("a", first), ("b", second)])
    threats = [Threat.parse("linf:4/255"), Threat.parse("l1:12")]
    fields = dict(second) | dict(results.summarize(second.points, threats, {}, False))
    assert 'text-anchor="end">union</text>' not in page.render([("a", first), ("b", UnionResult(**fields))])
    points = first.points.model_copy(update={"robust": {"linf": first.points.robust["linf"]}})
    alone = dict(first) | {"points": points, **results.summarize(points, [Threat.parse("linf:8/255")], {}, False)}
    assert 'text-anchor="end">union</text>' not in page.render([("a", UnionResult(**alone))])


def test_models_are_rows_with_short_names_whose_whole_name_is_shown_on_hover() -> None:
    names = [f"20261126-140702-digits-linf-{recipe}-with-a-very-long-name-{i}" for i, recipe in enumerate("abc")]
    text = page.render([(name, make([1, 1, 1, 0], False)) for name in names])
    header = text.split('<table class="models"')[1].split("</tr>")[0]
    assert header.count("<th") == 7, "model, clean, two norms, average, union, protocol"
    assert all(text.count(f'title="{name}"') >= 2 for name in names)
    assert "20261126" not in text.split("<svg")[0].split('<table class="models"')[1].replace('title="20261126', "")


def test_short_names_are_never_equal_and_never_empty() -> None:
    for labels in (["a-x", "a-y"], ["one"], ["a", "a-b"], ["ab", "ab"], [f"{'x' * 40}{i}{'y' * 40}" for i in range(3)]):
        short = style.short_names(labels)
        assert all(short) and len(set(short)) == len(set(labels))


def test_results_beyond_the_first_dozen_have_colours_of_their_own() -> None:
    assert len({style.colour(i) for i in range(60)}) == 60
