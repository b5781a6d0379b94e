"""Ctrl-C ends every command with a message: what is saved, and how to go on; a terminal is never silent for long."""

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from command import robust

SLOW_NET = """
import time
from torch import nn

def build():
    time.sleep(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def interrupt(*_: object, **__: object) -> NoReturn:
    """Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("line", "inside", "saved"),
    [
        ("eval digits-linf --n 4", "evaluate.evaluate", "verdicts and measurements so far are saved"),
        ("eval digits-linf --curve --n 4", "evaluate_curve.evaluate_curve", "verdicts and measurements so far"),
        ("eval digits-linf --threat fog:0.1", "evaluate_suite.evaluate_suite", "verdicts and measurements so far"),
        ("eval digits-linf --suite unseen", "evaluate_suite.evaluate_suite", "verdicts and measurements so far"),
        ("eval digits-linf --intermediate-q 1", "evaluate_intermediate.evaluate_intermediate", "so far are saved"),
        ("train kw-small --recipe digits/e-at", "train.train", "no training was cut off"),
        ("finetune digits-linf --recipe e-at", "train.train", "no training was cut off"),
        ("finetune digits-linf --recipe e-at --seed 0,1", "study.plan_of", "no training was cut off"),
        ("study STUDY", "study.read_study", "the steps that are done are saved"),
        ("quickstart", "train.train", "the steps that are done are saved"),
        ("pull USER/NAME", "obtain.bring", "a half one goes on where it is"),
        ("push RUN --repo USER/NAME", "publish_run.publish_run", "need not be sent again"),
        ("verify digits-linf", "verify.verify", "the verdicts of this machine are kept"),
        ("models architectures", "architecture_list.architecture_list", "nothing is half written"),
    ],
)
def test_ctrl_c_says_what_is_saved_and_how_to_go_on(
    line: str, inside: str, saved: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"robustctl.workflows.{inside}", interrupt)
    assert robust(*shlex.split(line)) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("robustctl: interrupted; ") and saved in said
    assert said.endswith(f". Go on: robustctl {line}")


def run_on_a_terminal(arguments: list[str], interrupt_after: str | None = None) -> tuple[int, str, float]:
    """The exit code, the whole output and the longest silence of a command in a terminal of its own.

    Args:
        interrupt_after: Ctrl-C is typed once this was shown.
    """
    command, environment = [sys.executable, "-m", "robustctl", *arguments], {**os.environ, "TERM": "xterm"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    ) as process:
        os.close(slave)
        shown, longest, last = "", 0.0, time.monotonic()
        while True:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    text = os.read(master, 65536).decode("utf-8", "replace")
                except OSError:  # the other end is closed
                    break
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                shown += text
            if interrupt_after is not None and interrupt_after in shown:
                process.send_signal(signal.SIGINT)
                interrupt_after = None
        os.close(master)
    return process.returncode, shown, longest


@pytest.fixture
def slow_net(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW_NET)
    return f"{tmp_path / 'slow.py'}:build"


def test_a_slow_model_is_waited_for_with_a_moving_sign(slow_net: str) -> None:
    asked = ["eval", "--model-code", slow_net, "--data", "digits", "--n", "2", "--norms", "linf", "--attack", "fast"]
    code, shown, _ = run_on_a_terminal(asked)
    assert code == 0, shown
    assert "working, 3 s" in shown
    assert all(line.endswith("\x1b[K") for line in shown.split("\r") if line[1:].startswith(" working"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "finetune digits-linf --recipe e-at --max-steps 3",
        "eval digits-linf --n 40 --attack fast",
        "finetune digits-linf --recipe e-at --dry-run",
        "verify digits-linf",
    ],
)
def test_no_command_is_silent_for_two_seconds(line: str) -> None:
    _, shown, longest = run_on_a_terminal(line.split())
    assert longest < 2.0, shown[-500:]


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    asked = ["eval", "digits-linf", "--n", "100", "--precision", "float32"]
    code, shown, _ = run_on_a_terminal([*asked, "--json", str(tmp_path / "r.json")], interrupt_after="attacking")
    assert code == 130 and "verdicts and measurements so far are saved. Go on: robustctl eval" in shown
    code, shown, _ = run_on_a_terminal([*asked, "--json", str(tmp_path / "r.json")])
    assert code == 0 and (tmp_path / "r.json").is_file(), shown
