"""robustctl doctor, offline; with a hub it is tried in tests/registry."""

import sys

import pytest

from robustctl.cli import main


def test_it_says_what_is_installed_and_where_things_are_without_the_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "planted0" * 4
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example.org")
    monkeypatch.setattr(sys, "argv", ["robustctl", "doctor", "--offline"])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr().out
    assert not stop.value.code
    rows = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert {"python", "robustctl", "torch", "huggingface-hub", "models", "runs", "hub", "token"} <= set(rows)
    assert rows["token"] == "configured"
    assert token not in output and "secret" not in output
