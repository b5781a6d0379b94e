"""Listings: headers, order, JSON, and lines that fit the terminal."""

import json
from pathlib import Path

import pytest
from command import robust

from robustctl.cli import options, output
from robustctl.errors import RequestError

ROWS = [{"name": "b", "size": 2.5}, {"name": "a", "size": None}, {"name": "c", "size": 10.0}]


def shown(capsys: pytest.CaptureFixture[str], sort: str | None) -> list[str]:
    output.listing(ROWS, {"name": "model", "size": "MB"}, None, sort, {})
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_rows_stand_below_a_header_in_the_order_asked_for(capsys) -> None:
    assert shown(capsys, None) == ["model", "b", "a", "c"]
    assert shown(capsys, "name") == ["model", "a", "b", "c"]
    assert shown(capsys, "size") == ["model", "b", "c", "a"]
    assert shown(capsys, "-size") == ["model", "c", "b", "a"], "a row without a value comes last either way"
    with pytest.raises(RequestError, match="unknown column 'sise'. Did you mean 'size'"):
        shown(capsys, "sise")


def test_json_is_the_rows_with_their_values(capsys, tmp_path: Path) -> None:
    output.listing(ROWS, {"name": "model"}, output.STDOUT, "name", {})
    assert json.loads(capsys.readouterr().out) == sorted(ROWS, key=lambda row: str(row["name"]))
    output.listing(ROWS, {"name": "model"}, tmp_path / "rows.json", None, {})
    assert json.loads((tmp_path / "rows.json").read_text()) == ROWS


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_on_a_terminal_no_word_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    words = "robustness in the union of several threat models, 157 s an epoch on one A100 (RAMP Table 7), PreAct"
    text = output.fitted([["name", "what"], ["ramp", words], ["a-very-long-name-indeed", words]])
    assert all(len(line) <= width for line in text.splitlines())
    assert text.split() == ["name", "what", "ramp", *words.split(), "a-very-long-name-indeed", *words.split()]


@pytest.mark.parametrize("command", [["recipes", "list"], ["models", "list"], ["runs"], ["models", "architectures"]])
def test_every_listing_writes_json(command: list[str], capsys) -> None:
    assert robust(*command, "--json") == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


@pytest.mark.parametrize("command", [["eval", "digits-linf"], ["recipes", "list"], ["runs"], ["models", "list"]])
def test_a_json_target_that_cannot_be_written_is_refused_before_the_work(command: list[str], capsys, tmp_path) -> None:
    assert robust(*command, "--json", tmp_path / "no" / "r.json") == 2
    assert "there is no directory" in capsys.readouterr().err


def test_completion_knows_recipes_methods_protocols_devices_and_keys(tmp_path, monkeypatch) -> None:
    assert {"e-at", "e-at-uniform"} <= set(options.recipe_names("e-a"))
    assert "digits/e-at" in options.recipe_names("digits/e-a")
    assert all(name.startswith("digits/e-a") for name in options.recipe_names("digits/e-a"))
    assert "e-at,ramp" in options.recipe_names("e-at,ra")
    assert options.methods("ra") == ["ramp"] and options.protocols("ada") == ["adaptive", "adaptive+"]
    assert options.devices("c")[0] == "cpu"
    assert {"optim.lr=", "optim.momentum="} <= set(options.set_keys("optim."))
    assert "method.weight=" in options.set_keys("method.w") and "train.epochs=" in options.set_keys("train.e")
    (tmp_path / "before.json").write_text("{}")
    (tmp_path / "before.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert options.result_names("be") == ["before.json"]
