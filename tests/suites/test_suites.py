"""Suites: what is shipped is whole, and what is wrong in a file is named."""

from pathlib import Path

import pytest

from robustctl import suites
from robustctl.errors import RequestError
from robustctl.perturbations import base
from robustctl.threats import NORMS


@pytest.mark.parametrize("dataset", ["cifar10", "digits", "mnist"])
@pytest.mark.parametrize("name", suites.names())
def test_shipped_suites_are_whole(name: str, dataset: str) -> None:
    found, suite = suites.load(name)
    assert found == name and suite.description
    assert len(suite.members(dataset)) == len(suite.threats)


def test_the_universal_suite_has_every_kind_and_norm() -> None:
    assert set(suites.load("universal")[1].threats) == {*base.names(), *NORMS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threats: [elastic]\nthreads: 3", "threads: unknown key"),
        ("description: nothing", "neither threats nor corruptions"),
        ("corruptions: [fogg]", "Did you mean 'fog'"),
        ("threats: [elastic, elastic]", "named twice"),
        ("threats: [elastic]\ngroups: {all: [elastik]}", "Did you mean 'elastic'"),
        ("threats: [elastic]\ngroups: {all: []}", "at least 1"),
        ("- elastic", "no mapping"),
        ("threats: fog", "threats: give a list of names"),
        ("threats: [1, 2]", "threats: give a list of names"),
        ("threats: [elastic]\ncorruptions: fog", "corruptions: give a list of names"),
        ("threats: [elastic]\ngroups: {all: elastic}", "groups: give a list of names"),
        ("threats: [", "line"),
        ("threats: [elastic]\nthreats: [fog]", "line 2: threats: given twice"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RequestError, match=message):
        suites.load(str(tmp_path / "mine.yaml"))


def test_a_file_can_have_several_budgets_of_a_kind_but_not_one_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("threats: [elastic:0.5, elastic:1, linf:1/255, linf:2/255]")
    name, suite = suites.load(str(tmp_path / "mine.yaml"))
    assert name == "mine" and [str(one) for one in suite.members("cifar10").values()] == list(suite.threats)
    for same in ("elastic:0.125, elastic", "elastic:1/2, elastic:0.5", "l0:1, l0:1.0", "linf:0.5, linf:1/2"):
        (tmp_path / "mine.yaml").write_text(f"threats: [{same}]")
        with pytest.raises(RequestError, match="the same"):
            suites.load(str(tmp_path / "mine.yaml"))[1].members("cifar10")


def test_a_budget_of_nothing_may_be_written_in_any_way_and_a_bad_one_is_named_with_its_threat() -> None:
    assert [base.Limit.parse(f"elastic:{text}").budget for text in ("0", "0.00", "0/255")] == [0, 0, 0]
    with pytest.raises(RequestError, match="threat 'elastic:-1': .* at least 0"):
        base.Limit.parse("elastic:-1")


def test_a_name_of_a_threat_and_of_a_corruption_is_the_threat_on_the_command_line() -> None:
    found = suites.of_threats(["fog", "snow:0.1", "contrast"])
    assert found.threats == ("fog", "snow:0.1") and found.chosen_corruptions == ("contrast",)


def test_unknown_suites_threats_and_radii_are_named() -> None:
    with pytest.raises(RequestError, match="Did you mean 'unseen'"):
        suites.load("unsen")
    with pytest.raises(RequestError, match="Did you mean 'snow'"):
        suites.parse("snw:1", "cifar10")
    with pytest.raises(RequestError, match="write it: l2:RADIUS"):
        suites.parse("l2", "flowers")
