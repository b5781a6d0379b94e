"""Models that the user's own code builds, from ``--model-code`` to a push, and code that must never run."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import robust
from torch import nn

import robustctl
from robustctl.errors import RequestError
from robustctl.models import pull
from robustctl.publish.push import Target
from robustctl.workflows.publish_run import publish_run

NET = """
from types import SimpleNamespace
from torch import nn
def build(width=2, n_classes=10):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(36 * width, n_classes))
class Opened(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(64, 10)
    def forward(self, x):
        return SimpleNamespace(logits=self.line(x.flatten(1)))
loaded = Opened()
def broken():
    raise KeyError("broken")
def text():
    return "no module"
"""
Run = Callable[..., tuple[int, str, str]]
FEW = ["--data", "digits", "--n", "10", "--attack", "fast", "--norms", "linf"]
TINY = {"overrides": ["selection.images=20", "train.batch_size=256"], "max_steps": 1}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = robust(*arguments)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)  # another test's
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 10))
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.pt")
    return tmp_path


def test_eval_takes_code_with_a_file_of_weights(here: Path, run: Run) -> None:
    code, _, err = run("eval", "--model-code", "net.py:build(width=3)", "--weights", "w.pt", *FEW, "--json", "r.json")
    assert code == 0, err
    result = json.loads((here / "r.json").read_text())
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 10))
    net.load_state_dict(torch.load(here / "w.pt")["state_dict"])
    by_hand = robustctl.evaluate(net, data="digits", n=10, threats="linf:0.15", protocol="fast")
    assert result["weights_sha256"] == by_hand.weights_sha256 and result["points"] == by_hand.points.model_dump()
    assert result["model"] == "net.build"


def test_the_command_that_training_suggests_runs(here: Path, run: Run) -> None:
    small = [f"--set={one}" for one in TINY["overrides"]]
    code, _, err = run("train", "--model-code", "net.py:build(width=3)", "--recipe", "digits/linf-at", *small,
                       "--max-steps", "1", "--set", "train.epochs=1")  # fmt: skip
    assert code == 0, err
    found = re.search("^done .*; next: robustctl (.*)$", err, re.MULTILINE)
    assert found, err
    code, _, err = run(*shlex.split(found[1]), *FEW[2:])
    assert code == 0, err


@pytest.mark.parametrize("name", ["loaded", "Opened"])
def test_eval_takes_a_class_and_a_module_that_is_loaded_already(name: str, run: Run) -> None:
    code, out, err = run("eval", "--model-code", f"net:{name}", *FEW)
    assert code == 0 and f"net.{name}" in out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model-code", "net.py:broken"], "fails with KeyError"),
        (["--model-code", "net.py:text"], "returns a str"),
        (["--model-code", "net.py:build(depth=1)"], "unexpected keyword argument"),
        (["--model-code", "net.py:build", "--weights", "w.pt"], "do not fit"),
        (["--weights", "w.pt"], "--weights goes with --model-code"),
        (["digits-linf", "--model-code", "net.py:build", "--weights", "w.pt"], "without MODEL"),
    ],
)
def test_wrong_code_or_weights_are_one_message(arguments: list[str], message: str, run: Run) -> None:
    code, _, err = run("eval", *arguments, *FEW)
    assert code == 2 and message in err


def test_training_fine_tuning_and_resumption_build_by_code_and_record_it(here: Path) -> None:
    trained = robustctl.train(None, "digits/linf-at", model_code="net.py:build(width=3)", out="trained", **TINY)
    spec = json.loads((here / "trained" / "config.json").read_text())["architecture"]
    assert spec["args"] == {"width": 3} and spec["code"]["file"] == "net.py" and len(spec["code"]["sha256"]) == 64
    assert trained.read().model_code == "net.py:build(width=3)"
    with pytest.raises(RequestError, match="never runs by itself"):
        robustctl.evaluate("trained", n=10, protocol="fast")
    again = {"out": "trained", "resume": True, "max_steps": 2}
    with pytest.raises(RequestError, match="never runs by itself"):
        robustctl.train(**again)
    more = robustctl.train(model_code="net.py:build", **again)
    assert more.read().step == 2
    start: dict[str, Any] = {"model_code": "net.py:build(width=3)", "weights": "w.pt", "out": "tuned"}
    tuned = robustctl.finetune(None, "digits/e-at", **start, **TINY).read()
    assert tuned.base == "net.build" and tuned.base_sha256
    assert isinstance(robustctl.load_model("tuned", model_code="net.py:build"), nn.Module)


def test_changed_code_is_said_and_is_another_evaluation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robustctl.train(None, "digits/linf-at", model_code="net.py:build", out="trained", **TINY)
    (here / "net.py").write_text(NET + "# changed\n")
    robustctl.load_model("trained", model_code="net.py:build")
    assert "is not the code that this model was made with" in capsys.readouterr().err


def test_a_push_has_the_code_only_when_asked_and_pulling_never_runs_it(here: Path) -> None:
    marker = here / "ran"
    (here / "net.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n{NET}")
    robustctl.train(None, "digits/linf-at", model_code="net.py:build", out="trained", **TINY)
    shelf = Target(f"file://{here}/shelf")
    assert "robustctl/code/net.py" not in publish_run("trained", shelf, licence="mit").sizes
    assert "It is not in this repo" in (here / "shelf" / "README.md").read_text()
    (here / "net.py").write_text(NET)
    with pytest.raises(RequestError, match="not here as it was"):
        publish_run("trained", shelf, licence="mit", with_code=True)
    (here / "net.py").write_text(f"import pathlib\npathlib.Path('ran').touch()\n{NET}")
    robustctl.train(None, "digits/linf-at", model_code="net.py:build", out="other", **TINY)
    assert "robustctl/code/net.py" in publish_run("other", shelf, licence="mit", with_code=True).sizes
    assert "built by code of its own" in (here / "shelf" / "README.md").read_text()
    marker.unlink()
    directory = pull.pull(shelf.repo)
    assert (directory / "robustctl" / "code" / "net.py").is_file()
    for attempt in (robustctl.load_model, lambda name: robustctl.evaluate(name, n=5, protocol="fast")):
        with pytest.raises(RequestError, match="never runs by itself"):
            attempt(shelf.repo)
    assert not marker.exists()
    assert isinstance(robustctl.load_model(shelf.repo, model_code="net.py:build"), nn.Module)


def test_a_config_cannot_name_a_place_from_which_code_would_run(here: Path) -> None:
    robustctl.train(None, "digits/linf-at", model_code="net.py:build", out="trained", **TINY)
    config = json.loads((here / "trained" / "config.json").read_text())
    evil = here / "evil.py"
    evil.write_text(f"import pathlib\npathlib.Path({str(here / 'ran')!r}).touch()\n{NET}")
    for name, file in (("own", str(evil)), (f"{evil}:build", "net.py"), ("evil", "evil.py"), ("evil:build", "net.py")):
        config["architecture"] |= {"name": name, "code": config["architecture"]["code"] | {"file": file}}
        (here / "trained" / "config.json").write_text(json.dumps(config))
        with pytest.raises(RequestError):
            robustctl.load_model("trained")
        robustctl.load_model("trained", model_code="net.py:build")
    del config["architecture"]["code"]
    (here / "trained" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="unknown architecture"):
        robustctl.load_model("trained")
    assert not (here / "ran").exists()


def test_import_registers_a_model_of_own_code(run: Run) -> None:
    code, out, err = run(
        "models", "import", "w.pt", "--name", "mine", "--model-code", "net.py:build(width=3)", "--dataset", "digits"
    )
    assert code == 0 and "net.py:build(width=3)" in out, err
    assert run("eval", "mine", *FEW)[0] == 2
    code, _, err = run("eval", "mine", "--model-code", "net.py:build", *FEW)
    assert code == 0, err


def test_an_own_architecture_is_trained_listed_and_published(private_home: Path, here: Path, run: Run) -> None:
    folder = private_home / "models" / "architectures"
    folder.mkdir(parents=True)
    builder = '"""A line."""\nfrom torch import nn\ndef build(n_classes, input_shape, bias=True):\n'
    (folder / "line.py").write_text(
        f"{builder}    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes, bias))\n"
    )
    (folder / "bad.py").write_text("1 / 0\n")
    code, out, _ = run("models", "architectures")
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("* ")}
    assert code == 0 and "bias=True" in lines["line"] and "bad" in lines and "ZeroDivisionError" in out
    assert "layout='cifar'" in out and "torchvision/MODEL" in out
    robustctl.train("line", "digits/linf-at", out="trained", **TINY)
    assert robustctl.evaluate("trained", n=5, protocol="fast").data.n == 5
    published = publish_run("trained", Target(f"file://{here}/shelf"), licence="mit", with_code=True, allow_flags=True)
    assert "robustctl/code/line.py" in published.sizes
