"""robustctl doctor, offline; with a hub it is tried in tests/hub."""

import sys
from importlib import metadata

import pytest

from robustctl.cli import doctor, main


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
    assert {"matplotlib", "transformers", "timm", "torchvision"} <= set(rows)
    assert token not in output and "secret" not in output


def test_optional_packages_are_reported_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("transformers", "timm"):
            raise metadata.PackageNotFoundError(name)
        return "0.1.0"

    monkeypatch.setattr(metadata, "version", version)
    rows = dict(doctor._versions())
    assert rows["transformers"] == "not installed; only CLIPs need it: pip install 'robustctl[clip]'"
    assert rows["timm"].startswith("not installed; only the models timm/... need it")
    assert rows["torchvision"] == "0.1.0"
    assert rows["matplotlib"].startswith("0.1.0, but >=")
