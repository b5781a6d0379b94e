"""A study in processes of its own: killed on the way, it ends with the same table."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import robust

from robustctl import runs
from robustctl.results.union import read

STUDY = """\
models: digits-linf
recipes: [e-at, avg]
seeds: [0, 1]
n: 40
protocols: fast
precision: float32
set: {train.epochs: 2, attack.steps: 2, selection.images: 50}
"""

NET = """
from torch import nn

def build(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 10))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def table(home: Path, study: Path) -> str:
    """The table of a study whose runs lie in ``home``; what it says of seconds is none of its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "robustctl", "study", str(study)],
        env={**os.environ, "ROBUSTCTL_RUNS": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_study_that_was_killed_twice_ends_with_the_same_table(study: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ROBUSTCTL_RUNS": str(tmp_path / "killed")}
    for wanted in (1, 5):  # steps that are done when the kill comes
        process = subprocess.Popen(
            [sys.executable, "-m", "robustctl", "study", str(study)], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        done = 0
        for line in process.stderr:
            done += line.startswith("done: ")
            if done == wanted:
                break
        time.sleep(4.0)  # in the middle of the next step
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert table(tmp_path / "killed", study) == table(tmp_path / "whole", study)


@pytest.mark.slow
def test_one_failure_leaves_the_rest_and_exits_with_1(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text(STUDY.replace("seeds: [0, 1]", "seeds: 0").replace("train.epochs: 2", "optim.lr: 1.0e+30"))
    assert robust("study", study) == 1
    said = capsys.readouterr().err
    assert "4 of the study's steps failed" in said and "not finite" in said
    study.write_text(STUDY.replace("seeds: [0, 1]", "seeds: 0"))
    assert robust("study", study) == 0


def test_the_documented_study_is_short_and_has_the_steps_that_it_is_said_to_have() -> None:
    from robustctl.workflows.study import read_study

    file = Path(__file__).parents[2] / "docs" / "digits.yaml"
    assert len(file.read_text().splitlines()) < 15
    plan = read_study(file)
    assert len(plan.trainings) == 18 and len(plan.evaluations) == 18
    assert {one.protocol for one in plan.evaluations} == {"adaptive"}


def test_the_yaml_in_the_documentation_is_a_study(tmp_path: Path) -> None:
    from robustctl.workflows.study import read_study

    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    (tmp_path / "s.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    assert len(read_study(tmp_path / "s.yaml").trainings) == 18


def test_every_fault_of_a_study_is_told_with_exit_code_2(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text("models: [digits-linf, digits-l]\nrecipes: e-a\nprotocols: fst\nset: {train.epoch: 1}\n")
    assert robust("study", study) == 2
    said = capsys.readouterr().err
    assert "has 3 faults" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == ["line 1", "line 2", "line 3"]


def test_faults_of_form_and_of_meaning_are_told_together(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text(
        "models: [digits-l, USER/NAME]\nrecipes: [e-a, none.yaml, digits/sat]\nseeds: [0, 0]\n"
        "data: {source: nowhere, n: 0}\n"
        "protocols: [fst, none.py:attack]\nthreats: [{linf: 0.1}, {linf: 8/0}]\nkey: 1\nset: {train.epoch: 1}\n"
    )
    assert robust("study", study, "--dry-run") == 2
    said = capsys.readouterr().err.splitlines()
    places = ("1: models.0", "1: models.1", "2: recipes.0", "2: recipes.1", "3: seeds", "4: data.n", "4: data")
    places += ("5: protocols.0", "5: protocols.1", "6: threats.1", "7: key", "8: set.train.epoch")
    assert said[0].endswith(f"has {len(places)} faults:")
    for place in places:
        assert sum(line.startswith(f"  line {place}: ") for line in said) == 1, place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: digits-linf\nn: 501\n", "line 2: n: n is 501, but digits (test) has 500 images"),
        ("models: digits-linf\ndata: {source: digits, split: val}\n", "line 2: data: digits has no split 'val'"),
        ("models: digits-linf\nthreats: {linf: 8}\n", "line 2: threats: linf:8 is"),
        ("models: {code: none.py:build}\ndata: digits\n", "line 1: models: code none.py:build: there is no file"),
        ("models: {code: CODE:build}\n", "does not say which images"),
        ("models: {code: CODE:build, weights: w.pt}\ndata: digits\n", "there is no file w.pt"),
    ],
)
def test_what_a_step_would_refuse_is_refused_before_the_first_one(study: Path, text: str, said: str, capsys) -> None:
    (study.parent / "net.py").write_text(NET)
    study.write_text(text.replace("CODE", str(study.parent / "net.py")))
    assert robust("study", study, "--dry-run") == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_code_of_the_users_own_is_trained_and_evaluated_by_a_torchrun_group(study: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    study.write_text(
        f"architectures: {{code: '{tmp_path}/net.py:build'}}\nrecipes: digits/linf-at\n"
        "data: {source: digits, n: 20}\nprotocols: fast\nprecision: float32\n"
        "set: {train.epochs: 1, selection.images: 50}\n"
    )
    assert robust("study", study, "--processes", "2", "--devices", "cpu") == 0
    (result,) = (runs.root() / "study" / "results").glob("*.json")
    assert read(result).data.n == 20


def test_rows_of_one_code_with_other_arguments_have_names_of_their_own(study: Path, capsys) -> None:
    (study.parent / "net.py").write_text(NET)
    codes = [f"{study.parent}/net.py:build(width={width})" for width in (2, 3)]
    listed = "".join(f"  - {{code: '{code}'}}\n" for code in codes)
    study.write_text(f"models:\n{listed}data: digits\nn: 10\nprotocols: fast\nprecision: float32\n")
    assert robust("study", study, "--jobs", "2") == 0
    capsys.readouterr()
    place = study.parent / "table.csv"
    assert robust("table", study, "-o", place, "--columns", "clean") == 0
    names = [line["method"] for line in csv.DictReader(place.read_text().splitlines())]
    assert names == [f"{code} start" for code in codes]
    for command in ("report", "compare"):
        assert robust(command, study) == 0
        assert "linf" in capsys.readouterr().out


def test_a_table_of_a_study_without_results_says_how_to_make_them(study: Path, capsys) -> None:
    assert robust("table", study) == 2
    assert f"robustctl study {study}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--format", "tex"], "latex"),
        (["-o", "table.pdf"], ".tex (latex)"),
        (["-o", "table.md", "--format", "csv"], ".csv (csv)"),
        (["--rows", "seed"], "method or result"),
    ],
)
def test_a_table_in_a_form_that_is_not_there_is_refused(study: Path, option: list[str], said: str, capsys) -> None:
    assert robust("table", study, *option) == 2
    assert said in capsys.readouterr().err
