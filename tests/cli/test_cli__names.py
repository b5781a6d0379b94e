"""Names that no file can have are refused in one message, wherever a command takes one."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from command import robust

LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", LONG],
        ["eval", f"@{LONG}"],
        ["eval", "digits-linf", "--data", LONG],
        ["eval", "digits-linf", "--n", "2", "--attack", "fast", "--json", LONG],
        ["report", LONG],
        ["push", LONG, "--repo", "a/b"],
        ["models", "show", LONG],
        ["models", "import", LONG, "--name", "x", "--arch", "kw-small", "--dataset", "digits"],
        ["recipes", "copy", "digits/e-at", LONG],
        ["recipes", "validate", LONG],
    ],
    ids=lambda arguments: " ".join(arguments)[:25],
)
def test_a_name_that_is_too_long_is_a_wrong_request(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert robust(*arguments) == 2
    told = capsys.readouterr().err
    assert "internal error" not in told and "Traceback" not in told and told.count("robustctl: ") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "foo", "cuda:99"])
def test_a_device_that_does_not_work_here_is_a_wrong_request(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("eval", "digits-linf", "--n", "2", "--attack", "fast", "--device", device) == 2
    assert device in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "said"), [(b"gr\xc3\xb6sse.yaml", 0, b"is sound"), (b"gr\xf6sse.yaml", 2, b"is not UTF-8; rename")]
)
def test_names_that_the_locale_cannot_spell_are_read_as_utf8_or_refused(
    name: bytes, code: int, said: bytes, tmp_path: Path
) -> None:
    recipe = (Path(__file__).parents[2] / "recipes" / "digits" / "e-at.yaml").read_bytes()
    (tmp_path / os.fsdecode(name)).write_bytes(recipe)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [os.fsencode(sys.executable), b"-m", b"robustctl", b"recipes", b"validate", name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == code, done.stderr
    assert b"internal error" not in done.stderr
    if code:
        assert said in done.stderr


@pytest.mark.parametrize("option", ["--data", "--norms", "--attack", "--eps", "--suite", "--device", "--json"])
@pytest.mark.parametrize("value", [[""], ["  "], None], ids=["empty", "blank", "after ="])
def test_an_empty_argument_never_chooses_a_default(
    option: str, value: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in ``--data $DATA`` of a script in which the variable is not set."""
    assert robust("eval", "digits-linf", *([f"{option}="] if value is None else [option, *value])) == 2
    told = capsys.readouterr().err
    assert option in told and "is a variable of the shell not set?" in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "gone", "a\x1b.json"), r"a\\x1b.json is not here any more"),
        (OSError(errno.EIO, "Input/output error", "x.npz"), "x.npz cannot be read or written"),
        (OSError(errno.EIO, "Input/output error"), "a file or the output cannot be read or written"),
    ],
)
def test_what_the_file_system_says_while_it_is_read_is_one_message(
    error: OSError, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("robustctl.workflows.leaderboard.make_site", fail)
    assert robust("leaderboard", "runs", "-o", "site") == 1
    said = capsys.readouterr().err
    assert told.replace("\\\\", "\\") in said and said.count("robustctl: ") == 1 and "internal error" not in said


def test_code_that_cannot_be_read_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("eval", "--model-code", "/proc/self/mem:build", "--data", "digits") == 2
    assert "cannot read /proc/self/mem" in capsys.readouterr().err
