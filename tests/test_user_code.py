import sys
from pathlib import Path

import pytest

from robustctl import user_code
from robustctl.errors import RequestError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file that counts how often it was run and one that it imports."""
    monkeypatch.chdir(tmp_path)
    for name in ("net", "beside"):  # another test's
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    (tmp_path / "net.py").write_text(
        "import pathlib\nfrom beside import VALUE\n"
        "runs = pathlib.Path('runs')\nruns.write_text((runs.read_text() if runs.exists() else '') + 'x')\n"
        "def build(width=1):\n    return VALUE * width\n"
    )
    return tmp_path


@pytest.mark.parametrize("text", ["net.py:build", "./net.py:build", "net:build"])
def test_a_file_or_a_module_is_run_and_gives_what_has_the_name(text: str) -> None:
    code = user_code.parse("--model-code", text)
    assert code.load()(2) == 14
    assert (code.short_name, code.file.name, len(code.sha256)) == ("net.build", "net.py", 64)


def test_a_file_runs_once_unless_it_changes(here: Path) -> None:
    user_code.parse("--model-code", "net.py:build").load()
    user_code.parse("--model-code", "net.py:build").load()
    assert (here / "runs").read_text() == "x"
    (here / "net.py").write_text("build = 3\n")
    assert user_code.parse("--model-code", "net.py:build").load() == 3


def test_nothing_runs_before_it_is_asked_for(here: Path) -> None:
    with user_code.granted(user_code.parse("--model-code", "net.py:build")):
        assert user_code.current() is not None
    assert user_code.current() is None
    assert not (here / "runs").exists()


def test_arguments_stand_behind_the_name() -> None:
    code = user_code.parse("--attack", "net.py:build(width=3, act='a:b', bias=True, p=0.5)")
    assert (code.name, code.args) == ("build", {"width": 3, "act": "a:b", "bias": True, "p": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net.py", "not of the form"),
        ("net.py:", "not of the form"),
        (":build", "not of the form"),
        ("net.py:build it", "not of the form"),
        ("other.py:build", "no file other.py"),
        ("no.such.module:build", "no module 'no.such.module'"),
        ("sys:path", "no module 'sys'"),
        ("net.py:build(3)", "arguments are written"),
        ("net.py:build(width=open('x'))", "arguments are written"),
        ("net.py:build(width=[1])", "width is no number"),
        ("net.py:build(width=", "arguments are written"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        user_code.parse("--model-code", text)


def test_a_file_that_fails_or_lacks_the_name_is_a_request_error(here: Path) -> None:
    with pytest.raises(RequestError, match=r"no 'biuld'\. Did you mean 'build'"):
        user_code.parse("--model-code", "net.py:biuld").load()
    (here / "net.py").write_text("1 / 0\n")
    with pytest.raises(RequestError, match=r"net\.py fails with ZeroDivisionError"):
        user_code.parse("--model-code", "net.py:build").load()
