import pytest
from typer.testing import CliRunner

from robustctl.cli import app
from robustctl.errors import RequestError
from robustctl.results import union as results
from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat


def save(path, model, linf, n=8, eps="8/255") -> str:
    points = Points(index=list(range(n)), label=[0] * n, clean=[1] * n, robust={"linf": linf[:n]})
    UnionResult(
        model=model,
        weights_sha256="0" * 64,
        data=DataInfo(source="digits", split="test", n=n, index_sha256=index_sha256("test", range(n))),
        attack=AttackInfo(name="standard", protocol="p", seed=0),
        flags=[],
        seconds=1,
        device="cpu",
        versions={},
        points=points,
        **results.summarize(points, [Threat.of("linf", eps)], {}, upper_bound=False),
    ).write(path)
    return str(path)


def run(*arguments):
    outcome = CliRunner().invoke(app, list(arguments))
    if isinstance(outcome.exception, RequestError):
        raise outcome.exception
    return outcome.stdout


@pytest.fixture
def first(tmp_path):
    return save(tmp_path / "a.json", "one", [1, 1, 0, 0, 0, 0, 0, 0])


def test_two_results_on_the_same_points_are_tested_pairwise(first, tmp_path):
    table = run("compare", first, save(tmp_path / "b.json", "two", [0, 1, 1, 1, 1, 1, 1, 1]))
    linf = next(line for line in table.splitlines() if line.startswith("linf"))
    assert linf.split()[-2:] == ["+62.5", "0.125"]


@pytest.mark.parametrize(
    ("more", "reason"), [({"n": 7}, "n: 8 against 7"), ({"eps": "4/255"}, "linf:8/255 against linf:4/255")]
)
def test_unlike_results_are_marked_and_not_compared(first, tmp_path, more, reason):
    table = run("compare", first, save(tmp_path / "b.json", "two", [1] * 8, **more))
    assert reason in table
    assert "change" not in table


def test_one_result_is_not_enough(first):
    with pytest.raises(RequestError, match="at least two"):
        run("compare", first)


def test_a_missing_file_and_a_foreign_one_are_named(first, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(RequestError, match="no result file .*nowhere"):
        run("compare", first, str(tmp_path / "nowhere.json"))
    with pytest.raises(RequestError, match=r"x\.json: its schema is None"):
        run("compare", first, str(tmp_path / "x.json"))


def test_markdown(first, tmp_path):
    assert run("compare", "--markdown", first, first).startswith("| accuracy in % |")


def test_several_results_are_one_table_against_the_first(first, tmp_path):
    others = [
        save(tmp_path / f"{name}.json", name, [1] * right + [0] * (8 - right)) for name, right in (("b", 8), ("c", 1))
    ]
    table = run("compare", first, *others)
    assert table.count("accuracy in %") == 1
    header, linf = (next(line for line in table.splitlines() if line.startswith(word)) for word in ("accuracy", "linf"))
    assert header.split()[3:] == ["one", "b", "change", "p", "c", "change", "p"]
    assert "+75.0" in linf and "-12.5" in linf
