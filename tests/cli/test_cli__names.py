"""Names that no file can have are refused in one message, wherever a command takes one."""

import os
import subprocess
import sys
from pathlib import Path

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
