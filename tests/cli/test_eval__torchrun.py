"""The documented ways to use several processes are understood by torchrun itself, and end with it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from robustctl.cli import app

DOCS = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]  # what the program torchrun is


def _documented() -> list[str]:
    texts = [DOCS / "README.md", *sorted((DOCS / "docs").glob("*.md"))]
    return [
        line.partition("#")[0].strip()
        for text in texts
        for line in re.findall(r"torchrun [^\n`]*-m robustctl [^\n`]*", text.read_text(encoding="utf-8"))
    ]


def _options() -> list[str]:
    """Every way to write an option of the commands that several processes may run."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return [
        f"{name} {option}"
        for name in ("eval", "train", "finetune")
        for parameter in commands[name].params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-") and option != "--n"  # -n is the same
    ]


@pytest.mark.parametrize("line", [*_documented(), *(f"torchrun -m robustctl {words}" for words in _options())])
def test_torchrun_leaves_our_options_to_us(line: str) -> None:
    from torch.distributed.run import parse_args

    words = shlex.split(line)[1:]
    ours = words[words.index("robustctl") + 1 :]
    assert parse_args(words).training_script_args == ours


def test_the_documents_show_how_to_evaluate_and_to_train_with_several_processes() -> None:
    commands = {line.partition("-m robustctl ")[2].split()[0] for line in _documented()}
    assert commands >= {"eval", "finetune"}
    assert "eval -n" in _options()


@pytest.mark.slow
def test_the_documented_lines_run_as_they_are_written(tmp_path: Path) -> None:
    for line in _documented():
        if "MODEL" in line.split():  # a placeholder: the line is for somebody's own machine
            continue
        words = [*TORCHRUN, *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "union" in done.stdout


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import os, time
from robustctl import parent
parent.LOOK_SECONDS = 0.05
parent.GRACE_SECONDS = {grace}
{prepare}
parent.watch()
print("watching", flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has asked about yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _ends(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if all(map(_gone, pids)):
            return True
        time.sleep(0.1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux whether a process has ended")
@pytest.mark.parametrize("prepare", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_worker_whose_torchrun_was_killed_ends_even_if_it_cannot_stop_politely(prepare: str) -> None:
    child = CHILD.format(grace=0.2, prepare=prepare)
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "watching\n"
    assert not _gone(pid)
    parent.kill()
    parent.wait()
    assert _ends([pid], 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "begun"),
    [
        ("finetune digits-linf --recipe e-at --set train.epochs=99 --out run", "run/metrics.jsonl"),
        ("eval digits-linf --attack full -n 500", "runs/eval/*/*.sqlite"),
    ],
)
def test_killing_torchrun_alone_ends_its_workers(
    words: str, begun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "runs"))
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "robustctl", *words.split()]
    with (tmp_path / "log").open("w") as log:
        torchrun = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    end = time.monotonic() + 120
    while not list(tmp_path.glob(begun)) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2)
    workers = _children(torchrun.pid)
    assert len(workers) == 2, (tmp_path / "log").read_text(encoding="utf-8")
    torchrun.kill()
    torchrun.wait()
    assert _ends(workers, 20), (tmp_path / "log").read_text(encoding="utf-8")
    assert "internal error" not in (tmp_path / "log").read_text(encoding="utf-8")


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
