"""A study's file is closed: every fault is told at once, with its line."""

from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.study.schema import StudyFile


def read(tmp_path: Path, text: str) -> StudyFile:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    made = StudyFile(file)
    made.refuse(made.faults)
    return made


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    study = read(tmp_path, "models: m\nrecipes: e-at\nseeds: 3\ndata: digits\nthreats: {linf: 8/255}\n").study
    assert study.models == ("m",) and study.recipes == ("e-at",) and study.seeds == (3,)
    assert study.data[0].source == "digits" and study.threats == ({"linf": "8/255"},)


def test_every_fault_is_told_with_its_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "models: m\nseedz: [0]\nseeds: [0, -1]\nn: 0\nthreats: {linf: eight}\nprecision: half\n"
    with pytest.raises(RequestError) as refused:
        read(tmp_path, text)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("has 5 faults:")
    assert [line.strip().split(":")[0] for line in lines[1:]] == ["line 2", "line 3", "line 4", "line 5", "line 6"]
    assert "seedz: unknown key. Did you mean 'seeds'?" in lines[1] and "seeds.1" in lines[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: 0\n", "models: name at least one model"),
        ("models: m\nrecipes: []\n", "recipes: name at least one"),
        ("models: [m, m]\n", "models: m stands there twice"),
        ("models: m\nmodels: n\n", "models: given twice"),
        ("- m\n", "holds no mapping"),
        ("models: [m\n", "is not YAML"),
    ],
)
def test_a_study_of_nothing_or_of_something_twice_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read(tmp_path, text)


def test_what_set_says_is_what_overrides_say(tmp_path: Path) -> None:
    study = read(tmp_path, "models: m\nset: {train.epochs: 2, method.pair: [linf, l1], augment.flip: true}\n").study
    assert study.overrides == ("train.epochs=2", 'method.pair=["linf", "l1"]', "augment.flip=true")


def test_what_is_sound_beside_a_fault_is_kept_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    text = "models: [a, [], b]\ndata:\n  - {source: digits, n: 0}\n  - {n: 3}\nseeds: -1\nthreats: {linf: x}\n"
    file.write_text(text)
    read = StudyFile(file)
    assert read.study.models == ("a", "b") and read.study.data[0].source == "digits" and len(read.study.data) == 1
    assert read.study.seeds == (0,) and read.study.threats == ()
    assert read.fault(("models", 1), "x").startswith("line 1: models.2: x")
    assert len(read.faults) == 5


def test_a_model_may_be_code_of_the_users_own(tmp_path: Path) -> None:
    study = read(
        tmp_path, "models: [m, {code: net.py:build, weights: w.pt}]\narchitectures: {code: net.py:build}\n"
    ).study
    assert [str(one) for one in (*study.models, *study.architectures)] == ["m", "net.py:build", "net.py:build"]
    with pytest.raises(RequestError, match="random weights"):
        read(tmp_path, "architectures: {code: net.py:build, weights: w.pt}\n")
    with pytest.raises(RequestError, match="line 1: models.cod: unknown key. Did you mean 'code'"):
        read(tmp_path, "models: {cod: net.py:build}\n")
