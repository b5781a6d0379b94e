"""Help: every command is in a panel and has three examples, which do what they say."""

import json
import shlex
from pathlib import Path

import pytest
import typer
from command import robust
from typer.testing import CliRunner

from robustctl.cli import app, panels
from robustctl.cli.panels import COMMANDS, EXAMPLES, commands

NEEDS = (
    "USER/NAME",
    "bench ",
    "verify eval.json",
    "leaderboard",
    "path/to",
    "mirror",
    "models import weights",
    "models verify --all",
    "RUN",
)
"""Examples with these words need a hub or things that only a user has, or take long; their options are checked."""
LONG = (
    "quickstart",
    "--quiet quickstart",
    "finetune digits-linf --recipe e-at",
    "train kw-small --recipe digits/linf-at",
    "train --resume",
    *EXAMPLES["eval"],
    "study study.yaml --jobs 2",
    "study study.yaml --devices cpu",
    "doctor",
)
EVERY = [line for lines in EXAMPLES.values() for line in lines]
QUICK = [line for line in EVERY if line not in LONG and not any(word in line for word in NEEDS)]


def test_every_command_has_three_examples_that_begin_with_it() -> None:
    words = {name for name, _ in commands(app)}
    assert words == set(EXAMPLES)
    for name, lines in EXAMPLES.items():
        assert not [line for line in lines if _faults(f"robustctl {line}")]
        assert len(lines) == 3 and name in words
        assert sum(name in line for line in lines) >= (1 if name == "models add" else 2)


def _faults(line: str) -> list[str]:
    """Words of a line that are neither commands nor options of its command."""
    command: object = typer.main.get_command(app)
    known = {"--help", "-q", "--quiet"}
    faults = []
    for word in shlex.split(line)[1:]:
        inner = getattr(command, "commands", {})
        if word in inner:
            command = inner[word]
        elif word.startswith("-") and word != "-" and not word.startswith("-selection"):
            options = {option for one in command.params for option in one.opts}  # type: ignore[attr-defined]
            faults += [] if word in known | options else [word]
    return faults


def test_examples_stand_below_the_help_each_on_its_line() -> None:
    said = CliRunner().invoke(app, ["recipes", "list", "--help"], env={"COLUMNS": "100"}).stdout.splitlines()
    for line in EXAMPLES["recipes list"]:
        assert any(one.strip() == f"robustctl {line}" for one in said)


def test_commands_stand_in_panels_and_none_is_left_over() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    assert all(f" {panel} " in said for panel in COMMANDS) and " Commands " not in said


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("command", ["eval", "finetune", "study", "models list"])
def test_help_breaks_no_word(command: str, width: int) -> None:
    wide = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "400"}).stdout
    narrow = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": str(width)}).stdout
    assert all(len(line) <= width for line in narrow.splitlines())
    plain = str.maketrans(dict.fromkeys("│╭╮╰╯─", " "))
    words = set(wide.translate(plain).split())
    new = {word for word in narrow.translate(plain).split() if word not in words}
    assert not new, "a word of the narrow help is none of the wide one"


@pytest.mark.parametrize("line", QUICK)
def test_an_example_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_results, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for path in two_results:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    quick = "protocols: fast\nset: {train.epochs: 1, attack.steps: 1, selection.images: 50}\n"
    (tmp_path / "study.yaml").write_text(f"models: digits-linf\nrecipes: e-at\n{quick}n: 20\n")
    (tmp_path / "entry.yaml").write_text(
        (Path(panels.__file__).parents[1] / "models/entries/digits-linf.yaml").read_text()
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    allowed = (0, 2) if line in ("models remove mine", "models remove entry") else (0,)
    assert robust(*shlex.split(line)) in allowed, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LONG if line != "train --resume"])
def test_a_long_example_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("models: digits-linf\nrecipes: e-at\nprotocols: fast\nn: 20\n")
    assert robust(*shlex.split(line)) == 0


@pytest.fixture
def two_results(tmp_path: Path, intermediate_result) -> list[Path]:
    from samples import result

    folder = tmp_path / "made"
    folder.mkdir()
    for name, model, robust_points in (("before", "digits-linf", 3), ("after", "mine", 7)):
        result(model, "0" * 64, robust_points).write(folder / f"{name}.json")
    intermediate_result.write(folder / "curve.json")
    return list(folder.iterdir())


def test_quiet_debug_and_a_bare_json_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("recipes", "list", "--dataset", "digits", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)[0]["name"].startswith("digits/")
    assert robust("recipes", "show", "nothing", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_options_that_are_told_apart_by_name_are_in_one_panel_alone() -> None:
    named = [name for names in panels.OPTIONS.values() for name in names]
    assert len(named) == len(set(named))
    known = {
        parameter.name
        for command in _leaves(typer.main.get_command(app))
        for parameter in command.params  # type: ignore[attr-defined]
    }
    assert len(known & set(named)) > 30


def _leaves(command: object) -> list[object]:
    inner = getattr(command, "commands", None)
    return [leaf for one in inner.values() for leaf in _leaves(one)] if inner else [command]
