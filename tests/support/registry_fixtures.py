"""Fixtures of the registry: a hub on the loopback, a model directory, a finished run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Server
from samples import result

from robustctl import checkpoint
from robustctl.architectures import Classifier
from robustctl.errors import RobustctlError
from robustctl.hub import download
from robustctl.models import convert as conversion
from robustctl.runs import Run, RunRecord
from robustctl.spec import ModelSpec


@pytest.fixture
def hub(tmp_path: Path, private_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running hub whose user alice has a token that may write; waits between attempts are cut short."""
    objects = tmp_path / "objects"
    objects.mkdir()
    server = Server(objects, {TOKEN: ("alice", "write", ["team"]), "hf_reader": ("rita", "read", [])})
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "LONGEST_WAIT_SECONDS", 0.01)
    yield server
    server.close()


@pytest.fixture
def model_dir(tmp_path: Path, conv_spec: ModelSpec, conv_model: Classifier) -> Path:
    """A model directory."""
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.save_model(conv_model, conv_spec, folder)
    return folder


@pytest.fixture
def run(private_home: Path, conv_spec: ModelSpec, conv_model: Classifier) -> Run:
    """A finished fine-tuning of the entry ``start`` with one evaluation, and one of its start."""
    folder = private_home / "runs" / "20260101-start-e-at"
    (folder / "eval").mkdir(parents=True)
    checkpoint.save_model(conv_model, conv_spec, folder)
    (folder / "recipe.yaml").write_text(f"# tried on {Path.home()}/data/mine first\nmethod: e-at\n")
    record = RunRecord(
        command="finetune",
        model="start",
        base="start",
        base_sha256="1" * 64,
        licence="mit",
        recipe_name="digits/e-at",
        recipe={"epochs": 1},
        seed=0,
        data={"source": f"{Path.home()}/secret/images", "n": 10},
        device="cpu",
        hardware="a machine",
        versions={"torch": "2"},
        started="2026-01-01T00:00:00",
        status="finished",
    )
    made = Run(folder)
    made.write(record)
    result("run", checkpoint.weights_sha256(conv_model), 6).write(folder / "eval" / "a.json")
    before = private_home / "runs" / "eval" / "start"
    before.mkdir(parents=True)
    result("start", "1" * 64, 2).write(before / "b.json")
    return made


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of the process here, which saves starting one a file; its memory limit would stay with the tests."""

    def ask(job: conversion.Conversion) -> conversion.Answer:
        try:
            return conversion._run(job)
        except RobustctlError as error:
            return conversion.Answer(fault=str(error), exit_code=error.exit_code)

    monkeypatch.setattr(conversion, "_ask", ask)
    monkeypatch.setattr(conversion, "_limit_memory", lambda size: None)
