"""A dry run of an evaluation says what it takes, refuses what the evaluation would refuse, and writes nothing."""

import json
import re
from pathlib import Path

import pytest
from command import robust

from robustctl import runs
from robustctl.evaluation import adaptive
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.threats import Threat

LINF = Threat.of("linf", "0.1")


def test_it_says_model_threats_protocol_images_and_cost_and_writes_nothing(capsys) -> None:
    assert robust("eval", "digits-linf", "-n", "30", "--norms", "linf,l1", "--attack", "standard", "--dry-run") == 0
    said = capsys.readouterr().err
    for text in ("digits-linf (kw-small, 60,086", "linf:0.15, l1:1.4, seed 0", "apgd-ce 1x100", "30 of digits (test)"):
        assert text in said
    costs = [sum(family.cost(10) for family in PROTOCOLS["standard"][norm]) for norm in ("linf", "l1")]
    assert f"at most {round(30 * sum(costs)):,} gradient evaluations" in said
    assert re.search(r" ms each, measured on a batch", said)
    assert not (runs.root() / "eval").exists()


def test_an_evaluation_that_was_begun_is_told(capsys) -> None:
    asked = ["eval", "digits-linf", "-n", "10", "--norms", "linf", "--attack", "fast"]
    assert robust(*asked) == 0
    store = next((runs.root() / "eval" / "digits-linf").glob("fast-*.sqlite"))
    capsys.readouterr()
    assert robust(*asked, "--dry-run") == 0
    assert f"goes on from {store}" in capsys.readouterr().err
    assert robust(*asked, "--seed", "1", "--dry-run") == 0
    assert "goes on from" not in capsys.readouterr().err


def test_weights_that_are_not_here_are_named_and_not_fetched(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a dry run fetches no weights")

    monkeypatch.setattr("robustctl.models.fetch.fetch_entry", none)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert robust("eval", "gowal-wrn70", "--dry-run") == 1
    said = capsys.readouterr().err
    assert "266,796,506 parameters" in said and "robustctl pull gowal-wrn70" in said and "nothing was started" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits-linf", "--eps", "linf:8"], "Did you mean linf:8/255"),
        (["digits-linf", "--attack", "fst"], "Did you mean 'fast'"),
        (["gowal-wrn70", "--data", "digits"], "the model takes 3x32x32"),
        (["digits-linf", "-n", "501"], "500"),
        (["digits-linf", "--curve", "--up-to", "0.5"], "--up-to 0.5"),
        (["digits-linf", "--threat", "patch:9"], "patch:9"),
        (["digits-linf", "--suite", "union", "--attack", "fst"], "Did you mean 'fast'"),
        (["digits-linf", "--intermediate-q", "1000", "--samples", "5"], "samples 5 are too few"),
        (["gowal-wrn70", "--suite", "union", "--data", "digits"], "the model takes 3x32x32"),
    ],
)
def test_it_refuses_what_the_evaluation_would_refuse(arguments: list[str], said: str, capsys) -> None:
    assert robust("eval", *arguments, "--dry-run") == 2
    assert said in capsys.readouterr().err


def test_the_cost_of_rounds_in_which_nothing_breaks_is_that_of_a_model_that_nothing_breaks(tmp_path: Path) -> None:
    """At radius 1e-6 no point breaks. A family's cost leaves out its single forward passes, under 6 % here."""
    asked = ["eval", "digits-linf", "-n", "40", "--eps", "linf:0.000001", "--norms", "linf", "--precision", "float32"]
    assert robust(*asked, "--json", tmp_path / "r.json") == 0
    from robustctl.results.union import read

    result = read(tmp_path / "r.json")
    assert result.rounds is not None and result.union.acc == result.clean.acc == 1.0
    spent = sum(one.evaluations for one in result.rounds)
    assert adaptive.unbroken_cost("adaptive", [LINF], 40, 10) == pytest.approx(spent, rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "union", "--attack", "fast"], ["suite union: linf:0.15, l2:0.45, l1:1.4", "gradient evaluations"]),
        (["--threat", "elastic:0.3", "--attack", "fast"], ["elastic:0.3", "if nothing breaks"]),
        (["--curve", "--norms", "l2"], ["up to l2:3 x 0.45", "gradient evaluations per image"]),
        (["--intermediate-q", "1", "--estimator", "mc", "--samples", "32"], ["q = 1 in linf:0.15", "the first image"]),
    ],
)
def test_every_kind_of_evaluation_says_what_it_takes_and_writes_nothing(
    arguments: list[str], said: list[str], capsys
) -> None:
    assert robust("eval", "digits-linf", "-n", "4", *arguments, "--dry-run") == 0
    told = capsys.readouterr().err
    for text in ("digits-linf (kw-small, 60,086", "images: 4 of digits (test)", *said):
        assert text in told
    assert not (runs.root() / "eval").exists()


def test_a_curve_costs_what_its_dry_run_says(tmp_path: Path, capsys) -> None:
    asked = ["eval", "digits-linf", "-n", "4", "--curve", "--norms", "l2"]
    assert robust(*asked, "--dry-run") == 0
    said = re.search(r"(\d+) gradient evaluations per image", capsys.readouterr().err)
    assert robust(*asked, "--json", tmp_path / "curve.json") == 0
    spent = json.loads((tmp_path / "curve.json").read_text())["norms"]["l2"]["evaluations"]
    assert said and 0 < spent <= 1.05 * 4 * int(said[1])
