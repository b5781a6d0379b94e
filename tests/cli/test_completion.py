"""The shell completes names, results, attacks, devices and keys, in every command that takes them."""

import json
import shutil
from pathlib import Path

import pytest
from command import robust
from typer.main import get_command

from robustctl import runs
from robustctl.cli import app, completion
from robustctl.cli.panels import commands

STORED = Path(__file__).parents[1] / "fixtures" / "stored-run"
COMPLETED = {
    *("model", "recipe", "result", "results", "run", "attack", "device", "devices", "suite", "threat", "norms", "arch"),
    *("status", "format", "precision", "executor", "sort", "data", "like", "method"),
}
"""Parameters that name something which exists; ``overrides`` is --set."""


def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The words that bash would offer for the last of these."""
    monkeypatch.setenv("_ROBUSTCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["robustctl", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        app(prog_name="robustctl")
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("finetune digits-linf --recipe e-a", "e-at"),
        ("finetune digits-linf --set optim.l", "optim.lr="),
        ("eval digi", "digits-linf"),
        ("eval m --attack ada", "adaptive"),
        ("eval m --norms linf,l", "linf,l2"),
        ("eval m --threat f", "fog"),
        ("eval m --precision b", "bf16"),
        ("study s.yaml --devices cpu,c", "cpu,cpu"),
        ("study s.yaml --executor s", "slurm"),
        ("table r.json --format l", "latex"),
        ("table r.json --columns clean,un", "clean,union"),
        ("models import f --arch kw", "kw-small"),
        ("models list --sort par", "parameters"),
        ("runs --status fin", "finished"),
        ("report be", "before.json"),
        ("plot curve be", "before.json"),
        ("leaderboard be", "before.json"),
    ],
)
def test_a_name_is_completed_wherever_it_is_taken(words, offered, monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert offered in complete(monkeypatch, capsys, *words.split())


def test_every_parameter_that_names_something_is_completed() -> None:
    group = get_command(app)
    bare = []
    for words, _ in commands(app):
        found = group
        for word in words.split():
            found = found.commands[word]
        for parameter in found.params:
            if parameter.name in COMPLETED and parameter._custom_shell_complete is None:
                bare.append(f"{words} {parameter.name}")
    assert not bare


@pytest.mark.parametrize("listing", sorted(completion.ROWS))
def test_the_columns_that_are_offered_can_be_sorted_by(listing: str, capsys) -> None:
    shutil.copytree(STORED, runs.root() / "stored")
    assert robust(*listing.split(), "--json") == 0
    (first, *_) = json.loads(capsys.readouterr().out)
    assert set(completion.ROWS[listing]) <= set(first)
    for column in completion.ROWS[listing]:
        assert robust(*listing.split(), "--sort", column) == 0
