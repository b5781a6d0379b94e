"""The command certify: bounds from below beside those from above, one message for each wrong turn."""

import json
from pathlib import Path

import pytest
from command import robust

from robustctl.errors import RequestError
from robustctl.report.certificate_table import table
from robustctl.results import certificate


def _certify(path: Path, *more: object, n: int = 4) -> int:
    return robust("certify", "digits-linf", "--norms", "linf", "--eps", "linf:0.05", "-n", n, "--json", path, *more)


def test_certified_is_at_most_attacked_and_both_stand_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _certify(tmp_path / "alone.json") == 0
    assert "robustctl eval of the same model, images and radii fills the last column" in capsys.readouterr().out
    attack = ("--norms", "linf", "--eps", "linf:0.05", "-n", 4, "--attack", "fast", "--precision", "float32")
    assert robust("eval", "digits-linf", *attack) == 0
    capsys.readouterr()
    assert _certify(tmp_path / "both.json") == 0
    alone, both = certificate.read(tmp_path / "alone.json"), certificate.read(tmp_path / "both.json")
    assert alone.margin == both.margin and alone.attacked == {}
    assert both.broken("linf") == []
    most = both.most("linf")
    assert most is not None and 0 < both.certified["linf"].acc <= most.acc <= 1
    out = capsys.readouterr().out
    assert f"{100 * both.certified['linf'].acc:.1f} [" in out and "certified, at least" in out


def test_a_larger_radius_certifies_no_more(tmp_path: Path) -> None:
    assert _certify(tmp_path / "small.json") == 0
    assert _certify(tmp_path / "large.json", "--eps", "linf:0.1") == 2  # said twice
    large = ("--norms", "linf", "--eps", "linf:0.3", "-n", 4, "--json", tmp_path / "large.json")
    assert robust("certify", "digits-linf", *large) == 0
    small, large_ = (certificate.read(tmp_path / f"{name}.json") for name in ("small", "large"))
    assert all(one > other for one, other in zip(small.margin["linf"], large_.margin["linf"], strict=True))
    assert large_.certified["linf"].acc == 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text["certified"]["linf"].update(acc=1.0, n_correct=4), "do not follow"),
        (lambda text: text["union"].update(acc=0.0), "do not follow"),
        (lambda text: text["margin"]["linf"].pop(), "do not cover"),
        (lambda text: text["margin"]["linf"].__setitem__(0, float("nan")), "no number"),
    ],
)
def test_an_edited_certificate_is_refused(tmp_path: Path, edit: object, message: str) -> None:
    path = tmp_path / "one.json"
    assert _certify(path, n=2) == 0
    text = json.loads(path.read_text(encoding="utf-8"))
    edit(text)  # type: ignore[operator]
    path.write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        certificate.read(path)


def test_a_broken_point_that_is_certified_is_flagged(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert _certify(path, n=2) == 0
    text = json.loads(path.read_text(encoding="utf-8"))
    text["attacked"] = {"linf": [0, 0]}
    path.write_text(json.dumps(text), encoding="utf-8")
    result = certificate.read(path)
    wrong = len(result.broken("linf"))
    assert wrong > 0
    assert f"flag: {wrong} points are certified in linf and were broken" in table(result)


def test_wrong_turns_have_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    assert robust("certify", "--model-code", f"{code}:build", "--data", "digits", "-n", 2) == 2
    assert "no bound is known for silu in this network" in capsys.readouterr().err
    assert robust("certify", "digits-linf", "--eps", "linf:8", "-n", 2) == 2
    assert "8/255" in capsys.readouterr().err
    assert robust("certify", "digits-linf", "--json", tmp_path / "none" / "x.json", "-n", 2) == 2


def test_exact_verdicts_leave_no_point_between_both_figures(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    exact = ("--norms", "linf", "--eps", "linf:0.06", "-n", 3, "--exact", 1, "--json", path)
    assert robust("certify", "digits-linf", *exact) == 0
    result = certificate.read(path)
    assert result.bound == "CROWN and MILP"
    assert result.certified["linf"].acc > 0
